"""The predecessor's program `email_broker`: it runs a worker or, with --dry-run, shows what one would do."""

from __future__ import annotations

from commands import CONTEXT, INTERRUPTED, explained_errors, say, warn_of_unknown_variables, with_version

try:
    import click

    from celery_sqs.sqs.batches import until_confirmed
    from emails.decide import End, Send
    from emails.message import InvalidMessage, parse_message
    from emails.mime import to_mime
    from emails.outcome import RetryLater
    from emails.raw_queue import find_raw_queue
    from emails.sender import EmailNotFound, Sender
    from settings import Settings, get_settings, override
except KeyboardInterrupt:
    raise SystemExit(INTERRUPTED) from None


@with_version
@click.command(context_settings=CONTEXT)
@click.option("-r", "--region", help="An AWS region, or localstack for the local endpoint.")
@click.option("-q", "--queue-url", help="The raw queue; the other queues' names are derived from it.")
@click.option("-t", "--table-name", help="The emails' table.")
@click.option("--dry-run", is_flag=True, help="Poll once and show what would be sent, without changing anything.")
def main(region: str | None, queue_url: str | None, table_name: str | None, dry_run: bool) -> None:
    """Run a worker that sends the emails whose ids arrive on the queue.

    An option that is not given is read from the environment or .env (EMAIL_REGION, EMAIL_QUEUE_URL, EMAIL_TABLE_NAME).
    """
    options = {"region": region, "queue_url": queue_url, "table_name": table_name}
    override(**{name: value for name, value in options.items() if value})
    if dry_run:
        warn_of_unknown_variables()
        with explained_errors():
            _dry_run(get_settings())
    else:
        from tasks import app  # noqa: PLC0415 (the app reads the settings when it is imported)

        app.worker_main(["worker", "--loglevel", "INFO"])


def _dry_run(settings: Settings) -> None:
    queue = find_raw_queue(settings)
    say(str(settings))
    sender = Sender.from_settings(settings)
    messages = queue.receive(10, 1, settings.visibility_timeout)
    try:
        for message in messages:
            say(f"{message['MessageId']}: {_verdict(sender, message['Body'])}")
    finally:
        if messages:  # if this fails, they are visible again after the visibility timeout
            held = [{"ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0} for message in messages]
            until_confirmed(queue.change_visibility_batch, held)
    count = len(messages)
    say(
        f"{count} message{'' if count == 1 else 's'} read and given back. Nothing was sent, and no row was changed."
        " SQS counts this as a receive."
    )


def _verdict(sender: Sender, body: str) -> str:
    try:
        email_id = parse_message(body)
    except InvalidMessage as error:
        return f"would become a dead letter: {error.reason}: {error.detail}"
    try:
        verdict = sender.preview(email_id)
    except EmailNotFound:
        return f"{email_id}: would wait: it has no row yet"
    if isinstance(verdict, RetryLater):
        return f"{email_id}: would wait: {verdict}"
    if not isinstance(verdict, Send):
        return f"{email_id}: would not be sent: {verdict.done if isinstance(verdict, End) else verdict}"
    email = verdict.email
    here = [attachment for attachment in email.attachments if not attachment.s3_uri]
    size = f"{len(to_mime(email.model_copy(update={'attachments': here})))} bytes"
    if len(here) < len(email.attachments):
        size += " without the files in S3"
    return (
        f"{email_id}: would be sent by {sender.provider(email).name}, {len(email.recipients)} recipients,"
        f" {len(email.attachments)} attachments, {size}"
    )
