"""The command that resolves an email by a person's decision."""

from __future__ import annotations

import click

from commands import say
from emails.hints import hint
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.status import status_of
from emails.store import Conflict, EmailStore
from settings import get_settings


@click.command()
@click.argument("email_id", metavar="ID")
@click.option("--sent", is_flag=True, help="Mark it as Sent, because the provider's log shows it.")
@click.option("--resend", is_flag=True, help="Send it again, and reset its attempt counter.")
def resolve(email_id: str, *, sent: bool, resend: bool) -> None:
    """Resolve the email ID, which is Unknown or Failed, as sent or to be sent again.

    An email is Unknown if a worker or the provider's answer was lost. Before you use --resend, look for the id at the
    provider (header X-Email-Id), or somebody may get the email twice.
    """
    if sent == resend:
        raise click.UsageError("Give either --sent or --resend.")
    settings = get_settings()
    store = EmailStore.from_settings(settings)
    queue = find_raw_queue(settings)
    try:
        if sent:
            store.resolve_sent(email_id)
            say(f"{email_id} is Sent.")
            return
        store.resend(email_id)
    except Conflict as conflict:
        raise click.ClickException(refused(email_id, conflict, "Unknown or Failed")) from None
    if enqueue_ids(queue, [email_id]):
        raise click.ClickException(
            f"{email_id} is Pending, but SQS did not accept its message: {hint('enqueue', email_id)}"
        )
    say(f"{email_id} is Pending and enqueued. Follow it: {hint('status', email_id)}")


def refused(email_id: str, conflict: Conflict, wanted: str) -> str:
    """Explain to a person why a row's status could not be changed."""
    if conflict.row is None:
        return f"{email_id} has no row."
    return f"{email_id} is {status_of(conflict.row) or 'without a status'}, not {wanted}."
