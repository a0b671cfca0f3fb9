"""Keep an email from being sent."""

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
    """Fail the email ID, which is Pending, before anybody sends it.

    Its message may still be on the queue; a worker that gets it finds nothing to do. `resolve --resend` undoes it.
    """
    try:
        EmailStore.from_settings(get_settings()).end(email_id, DISCARD, "cancelled")
    except Conflict as conflict:
        raise click.ClickException(refused(email_id, conflict, "Pending")) from None
    say(f"{email_id} is Failed: cancelled.")
