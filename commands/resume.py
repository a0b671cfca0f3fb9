"""The command that ends the pause of the stage."""

from __future__ import annotations

import click
from botocore.exceptions import BotoCoreError, ClientError

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
        try:
            found = pause_lambda.switch(settings, uuid, enabled=True)
        except (BotoCoreError, ClientError) as error:  # AWS may still be disabling it
            raise click.ClickException(
                f"The stage is still paused, because the event source mapping {uuid} could not be enabled: {error}. "
                "Resume again in a minute. It needs lambda:UpdateEventSourceMapping."
            ) from None
        say(f"enabled the event source mapping {uuid}" if found else f"the event source mapping {uuid} is gone")
    stage.end()
    say(f"The stage {settings.stage} was {pause}")
    say("It is resumed.")
