"""The command that ends the pause of the stage."""

from __future__ import annotations

import click

from commands import say
from emails.pause import StagePause
from settings import get_settings


@click.command()
def resume() -> None:
    """Make the workers of the stage take emails again, within 10 seconds."""
    settings = get_settings()
    stage = StagePause.from_settings(settings)
    pause = stage.read()
    stage.end()
    say(f"The stage {settings.stage} was {pause}" if pause else f"The stage {settings.stage} was not paused.")
    if pause:
        say("It is resumed.")
