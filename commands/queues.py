"""How deep the queues are, for a person."""

from __future__ import annotations

import click

from celery_sqs.sqs.queue import Depths, Queue, queue_url
from commands import say
from emails.resources import check_resources
from settings import get_settings
from settings.aws import client
from settings.model import dead_letter_queue


@click.command()
def queues() -> None:
    """Show how many messages each queue has, as approximate as SQS's figures, and how many are dead letters.

    Ready ones wait for a worker; those in flight are with one; delayed ones wait for a time of their own.
    """
    settings = get_settings()
    check_resources(settings)
    sqs = client("sqs", settings)

    def depths(name: str) -> Depths:
        return Queue(name, queue_url(sqs, name) or "", lambda: sqs).depths()

    for name in settings.queues:
        ready, in_flight, delayed = depths(name)
        dead = depths(dead_letter_queue(name)).ready
        say(f"{name}: {ready} ready, {in_flight} in flight, {delayed} delayed, {dead} dead")
