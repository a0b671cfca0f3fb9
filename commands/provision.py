"""Make the queues and the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from commands import say
from emails import resources
from settings import get_settings

if TYPE_CHECKING:
    from settings import Settings


@click.command()
def provision() -> None:
    """Make the queues, each with its dead-letter queue, and the tables.

    What is there already stays; a queue whose attributes differ is corrected. Run it as often as you like.
    """
    provision_and_say(get_settings())


def provision_and_say(settings: Settings) -> None:
    """Make the queues and the tables of these settings, and say of each what was done."""
    say(str(settings))
    for line in resources.provision(settings):
        say(line)
