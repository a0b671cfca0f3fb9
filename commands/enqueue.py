"""The command that puts ids on the raw queue."""

from __future__ import annotations

import sys
from itertools import chain
from typing import IO, TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from commands import say
from emails.hints import hint
from emails.message import InvalidMessage, check_email_id
from emails.raw_queue import enqueue_ids, find_raw_queue
from settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@click.command()
@click.argument("email_ids", metavar="ID...", nargs=-1)
@click.option("--bulk", is_flag=True, help="Use the bulk queue, whose emails give way to those of the other queue.")
@click.option(
    "--from-file", type=click.File("r", encoding="utf-8"), help="A file with one id per line; - is standard input."
)
def enqueue(email_ids: tuple[str, ...], *, bulk: bool, from_file: IO[str] | None) -> None:
    """Put each ID on the raw queue, as any producer would: {"email_id": "ID"}.

    Ids come from the arguments, from --from-file or, if neither is given, from standard input. They are sent in batches
    of ten. Ids that SQS does not accept are tried again, and those that still fail are named at the end.

    \b
    Examples:
      email-service enqueue test-1 test-2
      email-service enqueue --bulk --from-file ids.txt
    """  # noqa: D301 (click looks for the control character, not for a backslash)
    if not email_ids and from_file is None:
        from_file = sys.stdin
    settings = get_settings()
    queue = find_raw_queue(settings, bulk=bulk)
    total = None if from_file and not from_file.seekable() else len(email_ids) + _count(from_file)
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("enqueuing"), MofNCompleteColumn())
    enqueued = 0
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=total)

            def sent(count: int) -> None:
                nonlocal enqueued
                enqueued += count
                progress.advance(bar, count)

            failed = enqueue_ids(queue, _checked(chain(email_ids, _lines(from_file))), sent)
    except BaseException:  # say how far it got, even if it is interrupted
        say(f"stopped after {enqueued} were enqueued on {queue.name}.", err=True)
        raise
    say(f"{enqueued} enqueued on {queue.name}." + (f" Follow it: {hint('status', email_ids[0])}" if email_ids else ""))
    if failed:
        for email_id, code in failed.items():
            say(f"not enqueued: {email_id}: {code}", err=True)
        raise click.ClickException(f"SQS did not accept {len(failed)} of {enqueued + len(failed)}; enqueue them again.")


def _count(file: IO[str] | None) -> int:
    """Return how many ids the file has, and go back to where it was. A pipe cannot do that."""
    if file is None:
        return 0
    start = file.tell()
    count = sum(1 for _ in _lines(file))
    file.seek(start)
    return count


def _lines(file: IO[str] | None) -> Iterator[str]:
    for line in file or ():
        if line.strip():
            yield line.strip()


def _checked(email_ids: Iterable[str]) -> Iterator[str]:
    for email_id in email_ids:
        try:
            yield check_email_id(email_id)
        except InvalidMessage as error:
            raise click.ClickException(
                f"{email_id[:200]!r}: {error.detail}. Ids before it may have been enqueued already."
            ) from None
