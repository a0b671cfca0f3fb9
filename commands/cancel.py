"""The command that cancels an email."""

from __future__ import annotations

import click

from commands import say
from emails import operate
from emails.store import EmailStore
from settings import get_settings


@click.command()
@click.argument("email_id", metavar="ID")
def cancel(email_id: str) -> None:
    """Cancel the email ID if it is still Pending. It becomes Failed and is not sent.

    Its message may stay on the queue. A worker that receives it does nothing. `resolve --resend` undoes a cancellation.
    """
    try:
        say(operate.cancel(EmailStore.from_settings(get_settings()), email_id))
    except operate.Refused as refused:
        raise click.ClickException(str(refused)) from None
