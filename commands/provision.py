"""Make the queues and the tables."""

from __future__ import annotations

import click

from commands import say
from emails import resources
from settings import get_settings


@click.command()
def provision() -> None:
    """Make the queues, each with its dead-letter queue, and the tables.

    What is there already stays; a queue whose attributes differ is corrected. Run it as often as you like.
    """
    settings = get_settings()
    say(str(settings))
    for line in resources.provision(settings):
        say(line)
