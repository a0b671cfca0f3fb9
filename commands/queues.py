"""How deep the queues are, for a person."""

from __future__ import annotations

import click

from celery_sqs.queue import Queue
from emails.resources import check_resources, queue_url
from settings import get_settings
from settings.aws import client
from settings.model import dead_letter_queue

COUNTS = {
    "ready": "ApproximateNumberOfMessages",
    "in flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}


@click.command()
def queues() -> None:
    """Show how many messages each queue has, as approximate as SQS's figures, and how many are dead letters.

    Ready ones wait for a worker; those in flight are with one; delayed ones wait for a time of their own.
    """
    settings = get_settings()
    check_resources(settings)
    sqs = client("sqs", settings)

    def attributes(name: str) -> dict[str, str]:
        return Queue(name, queue_url(sqs, name) or "", lambda: sqs).attributes(*COUNTS.values())

    for name in settings.queues:
        found, dead = attributes(name), attributes(dead_letter_queue(name))
        counts = [f"{found[attribute]} {what}" for what, attribute in COUNTS.items()]
        click.echo(f"{name}: {', '.join(counts)}, {dead[COUNTS['ready']]} dead")
