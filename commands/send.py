"""The command that writes emails' rows and puts their ids on the raw queue."""

from __future__ import annotations

from typing import IO

import click

from commands import say
from commands.put import read_row, write
from emails.hints import hint
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.status import EmailStatus, status_of
from emails.store import EmailStore
from settings import get_settings


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.File("r", encoding="utf-8"))
def send(files: tuple[IO[str], ...]) -> None:
    """Write the row in each FILE, as `put` does, and enqueue its id.

    All files are checked before the first row is written. If an id has a row already, its file is skipped.
    """
    rows = [read_row(file) for file in files]
    for row in rows:
        if status_of(row) != EmailStatus.PENDING:
            raise click.ClickException(
                f"{row['EmailId']}: EmailStatus is {status_of(row)}, so no worker would send it."
            )
    settings = get_settings()
    store, queue = EmailStore.from_settings(settings), find_raw_queue(settings)
    written: list[str] = []
    problems: list[str] = []
    try:
        for row in rows:
            try:
                write(store, row)
            except click.ClickException as error:
                problems.append(error.message)
            else:
                written.append(row["EmailId"])
    finally:  # even if DynamoDB has become unavailable: a row without a message would wait for a sweep
        refused = enqueue_ids(queue, written)
        for email_id in written:
            if email_id in refused:
                problems.append(
                    f"{email_id} is Pending, but SQS did not accept its message: {hint('enqueue', email_id)}"
                )
            else:
                say(f"{email_id} is Pending and enqueued. Follow it: {hint('status', email_id)}")
    if problems:
        for problem in problems[:-1]:
            say(f"Error: {problem}", err=True)
        raise click.ClickException(problems[-1])
