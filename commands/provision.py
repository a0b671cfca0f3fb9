"""The command that creates the queues and tables."""

from __future__ import annotations

import click

from commands import say
from emails import resources
from settings import get_settings


@click.command()
def provision() -> None:
    """Create the tables, and the queues with their dead-letter queues.

    What exists already stays, but a queue is corrected if its attributes differ. Run it as often as you like.
    """
    settings = get_settings()
    say(str(settings))
    for line in resources.provision(settings):
        say(line)
