"""The command that creates the queues and tables, and tries what workers ask of them."""

from __future__ import annotations

import click
from rich.console import Console

from commands import read_units_option, say
from emails import resources
from emails.backfill import Report, backfill
from emails.store import Attention, EmailStore, GroupsRefused, check_groups
from settings import get_settings


@click.command()
@click.option(
    "--check", is_flag=True, help="Try grouped requests on the table, with a scratch row that is deleted again."
)
@click.option(
    "--backfill",
    "with_backfill",
    is_flag=True,
    help="Scan the emails' table for rows that became Failed or Unknown before `list` could find them.",
)
@read_units_option
def provision(*, check: bool, with_backfill: bool, read_units: float) -> None:
    """Create the tables, and the queues with their dead-letter queues.

    What exists already stays, but a queue is corrected if its attributes differ, and the emails' table gets the index
    that `list` reads if it lacks it. The command waits until DynamoDB has built the index. Run it as often as you like.
    """
    settings = get_settings()
    say(str(settings))
    for line in resources.provision(settings):
        say(line)
    if check:
        try:
            for line in check_groups(settings):
                say(line)
        except GroupsRefused as error:
            raise click.ClickException(str(error)) from None
    if with_backfill:
        store, attention = EmailStore.from_settings(settings), Attention.from_settings(settings)
        with Console(stderr=True).status("looking for emails that need a person") as status:
            report = backfill(store, attention, read_units, lambda so_far: status.update(_sentence(so_far)))
        say(_sentence(report))


def _sentence(report: Report) -> str:
    return f"corrected {report.corrected} of {report.found} emails that need a person; {report.read_units:g} read units"
