"""The command that pauses the stage."""

from __future__ import annotations

import click

from commands import say
from emails.hints import hint
from emails.pause import StagePause, who
from settings import get_settings


@click.command()
@click.option("--reason", metavar="TEXT", required=True, help="Why; shown to everybody who looks.")
def pause(reason: str) -> None:
    """Make all workers of the stage stop taking emails, within 10 seconds.

    Emails that have begun are finished, the others stay in SQS, and callbacks are still recorded.
    """
    if not reason.strip():
        raise click.UsageError("--reason must say why.")
    settings = get_settings()
    begun = StagePause.from_settings(settings).begin(who(settings), reason)
    say(f"The stage {settings.stage} is {begun}")
    say(f"To go on: {hint('resume')}")
