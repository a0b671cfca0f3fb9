"""The command that ends the pause of the stage."""

from __future__ import annotations

import click

from commands import say
from emails import pause_lambda
from emails.pause import StagePause
from settings import get_settings


@click.command()
def resume() -> None:
    """Make the workers of the stage take emails again, within 10 seconds.

    Event source mappings of AWS Lambda functions that `pause` has disabled are enabled again.
    """
    settings = get_settings()
    stage = StagePause.from_settings(settings)
    pause = stage.read()
    if pause is None:
        say(f"The stage {settings.stage} was not paused.")
        return
    # The pause is deleted last, because nothing else says what was disabled.
    for uuid in pause.mappings:
        found = pause_lambda.switch(settings, uuid, enabled=True)
        say(f"enabled the event source mapping {uuid}" if found else f"the event source mapping {uuid} is gone")
    stage.end()
    say(f"The stage {settings.stage} was {pause}")
    say("It is resumed.")
