"""Delete the control queues that crashed processes left."""

from __future__ import annotations

import click

from celery_sqs.sqs import leased_queues
from commands import say
from settings import get_settings
from settings.aws import client


@click.command()
@click.option("--dry-run", is_flag=True, help="Name them, and delete nothing.")
def reap(dry_run: bool) -> None:
    """Delete the queues for events and remote control that crashed processes left.

    A process deletes its own when it exits. What a crash leaves is known by a tag, a lease that nobody has renewed for
    an hour. Fit for a cron; two at once do no harm.
    """
    settings = get_settings()
    count = 0
    for name in leased_queues.reap(client("sqs", settings), settings.control_queue_prefix, dry_run=dry_run):
        count += 1
        say(f"{'would delete' if dry_run else 'deleted'} {name}")
    say(f"{count} of {settings.control_queue_prefix}* had no owner any more")
