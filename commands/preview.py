"""The command that shows the message that would be sent."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands import say, say_message
from commands.put import read_row
from commands.status import no_row
from emails import attachments
from emails.decide import End, decide_by_content
from emails.email import Email
from emails.fail_over import choose
from emails.mime import to_mime
from emails.outcome import RetryLater
from emails.providers.contract import SendError
from emails.status import EmailStatus
from emails.store import EmailStore
from settings import get_settings
from settings.aws import client

if TYPE_CHECKING:
    from emails.store import Row

FETCH_SECONDS = 120


@click.command()
@click.argument("file_or_id", metavar="FILE|ID")
def preview(file_or_id: str) -> None:
    """Write the message that would be sent for the row in FILE, or for the email ID, to standard output.

    Nothing is sent or changed. Standard error shows who would get it, Bcc recipients included. Attachments in S3 are
    fetched. A provider may add headers. `email-service preview FILE > email.eml` makes a file for a mail program.
    """
    settings = get_settings()
    row = _row(file_or_id)
    now = time.time()
    decision = decide_by_content(row, now, settings)
    if isinstance(decision, End):
        raise click.ClickException(f"It would not be sent: {decision.reason}")
    email = Email.from_row(row)
    if any(attachment.s3_uri for attachment in email.attachments):
        try:
            email = attachments.fetch(client("s3", settings), email, now + FETCH_SECONDS)
        except SendError as error:
            raise click.ClickException(f"It would not be sent: {error}") from None
    if email.status != EmailStatus.PENDING:
        say(f"It is {email.status}, so it would not be sent now.", err=True)
    elif isinstance(decision, RetryLater):
        say(f"It would be sent at {_moment(now + decision.seconds)}.", err=True)
    recipients = ", ".join(mailbox.addr_spec for mailbox in email.recipients)
    sender = f"from {email.sender.addr_spec} by {choose(email, settings.provider, ())}"
    say(f"It would be sent {sender} to {recipients}.", err=True)
    say_message(to_mime(email))


def _row(file_or_id: str) -> Row:
    if file_or_id == "-" or Path(file_or_id).is_file():
        with click.open_file(file_or_id, encoding="utf-8") as file:
            return read_row(file)
    settings = get_settings()
    row = EmailStore.from_settings(settings).get(file_or_id)
    if row is None:
        raise click.ClickException(no_row(file_or_id, settings))
    return row


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):  # a row may have any NextAttemptAt
        return "no time in the years 1 to 9999"
