"""The command that creates the queues and tables, and tries what workers ask of them."""

from __future__ import annotations

import click

from commands import say
from emails import resources
from emails.store import GroupsRefused, check_groups
from settings import get_settings


@click.command()
@click.option(
    "--check", is_flag=True, help="Try grouped requests on the table, with a scratch row that is deleted again."
)
def provision(*, check: bool) -> None:
    """Create the tables, and the queues with their dead-letter queues.

    What exists already stays, but a queue is corrected if its attributes differ. Run it as often as you like.
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
