"""The command that cancels an email."""

from __future__ import annotations

import click

from commands import say
from commands.resolve import refused
from emails.status import DISCARD
from emails.store import Conflict, EmailStore
from settings import get_settings


@click.command()
@click.argument("email_id", metavar="ID")
def cancel(email_id: str) -> None:
    """Cancel the email ID if it is still Pending. It becomes Failed and is not sent.

    Its message may stay on the queue. A worker that receives it does nothing. `resolve --resend` undoes a cancellation.
    """
    try:
        EmailStore.from_settings(get_settings()).end(email_id, DISCARD, "cancelled")
    except Conflict as conflict:
        raise click.ClickException(refused(email_id, conflict, "Pending")) from None
    say(f"{email_id} is Failed: cancelled.")
