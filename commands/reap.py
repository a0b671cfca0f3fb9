"""The command that deletes the control queues that crashed processes left behind."""

from __future__ import annotations

import click

from celery_sqs.sqs import leased_queues
from commands import say
from settings import get_settings
from settings.aws import client


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
def reap(dry_run: bool) -> None:
    """Delete the queues for events and remote control that crashed processes left behind.

    A process deletes its own queues when it exits. If it crashes, nobody renews the lease in their tags any more, and
    after an hour the queues count as left behind. The command can run from cron, and two at once do no harm.
    """
    settings = get_settings()
    count = 0
    try:
        for name in leased_queues.reap(client("sqs", settings), settings.control_queue_prefix, dry_run=dry_run):
            count += 1
            say(f"{'would delete' if dry_run else 'deleted'} {name}")
    finally:  # say how far it got, even if it is interrupted
        say(f"{count} of the queues {settings.control_queue_prefix}* had been left behind")
