"""The command that pauses the stage."""

from __future__ import annotations

import click
from botocore.exceptions import BotoCoreError, ClientError

from commands import say
from emails import pause_lambda
from emails.hints import hint
from emails.pause import StagePause, who
from settings import get_settings


@click.command()
@click.option("--reason", metavar="TEXT", required=True, help="Why; shown to everybody who looks.")
def pause(reason: str) -> None:
    """Make all workers of the stage stop taking emails, within 10 seconds.

    Emails that have begun are finished, the others stay in SQS, and callbacks are still recorded. If the stage has AWS
    Lambda functions, their event source mappings are disabled, which takes AWS about a minute.
    """
    if not reason.strip():
        raise click.UsageError("--reason must say why.")
    settings = get_settings()
    stage = StagePause.from_settings(settings)
    before = stage.read()
    begun = stage.begin(who(settings), reason, before.mappings if before else ())
    say(f"The stage {settings.stage} is {begun}")
    try:
        for mapping in pause_lambda.enabled_mappings(settings):
            # It is noted first, so that `resume` enables it again even if this command is interrupted.
            # An earlier pause that was cut short may have noted it already.
            begun = stage.begin(begun.by, reason, tuple(dict.fromkeys((*begun.mappings, mapping.uuid))))
            pause_lambda.switch(settings, mapping.uuid, enabled=False)
            say(f"disabled the event source mapping of {mapping.queue} to the function {mapping.function}")
    except (BotoCoreError, ClientError) as error:
        raise click.ClickException(
            f"Workers are paused, but AWS Lambda functions are not, if the stage has any: {error}. Pause again in a "
            "minute. It needs lambda:ListEventSourceMappings and lambda:UpdateEventSourceMapping."
        ) from None
    say(f"To go on: {hint('resume')}")
