"""The command that shows how many messages the queues hold."""

from __future__ import annotations

import click

from commands import say, say_json
from emails.pause import StagePause
from emails.resources import check_resources, find_queue
from settings import get_settings
from settings.aws import client
from settings.model import dead_letter_queue


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
def queues(as_json: bool) -> None:
    """Show how many messages and how many dead letters each queue has. SQS's figures are approximate.

    Ready messages wait for a worker, messages in flight are held by one, and delayed messages become ready later.
    """
    settings = get_settings()
    check_resources(settings)
    sqs = client("sqs", settings)
    if pause := StagePause.from_settings(settings).read():
        say(f"The stage {settings.stage} is {pause}", err=as_json)
    counts = {}
    for name in settings.queues:
        ready, in_flight, delayed = find_queue(sqs, name).depths()
        dead = find_queue(sqs, dead_letter_queue(name)).depths().ready
        counts[name] = {"Ready": ready, "InFlight": in_flight, "Delayed": delayed, "DeadLettered": dead}
        if not as_json:
            say(f"{name}: {ready} ready, {in_flight} in flight, {delayed} delayed, {dead} dead-lettered")
    if as_json:
        say_json(counts)
