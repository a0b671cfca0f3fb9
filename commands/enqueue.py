"""The command that puts ids on the raw queue."""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO, TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from commands import say
from emails.hints import hint
from emails.message import InvalidMessage, check_email_id
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.status import EmailStatus
from emails.store import EmailStore, StoreRefused, StoreUnavailable
from settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BATCH = 100  # the most ids that one BatchGetItem takes
MAX_NAMED = 20  # ids that a note names


@click.command()
@click.argument("email_ids", metavar="ID...", nargs=-1)
@click.option("--bulk", is_flag=True, help="Use the bulk queue, whose emails give way to those of the other queue.")
@click.option(
    "--from-file", type=click.File("r", encoding="utf-8"), help="A file with one id per line; - is standard input."
)
@click.option(
    "--check/--no-check", default=True, help="Look up each id's row, 100 at a time, and say which is unusual."
)
def enqueue(email_ids: tuple[str, ...], *, bulk: bool, from_file: IO[str] | None, check: bool) -> None:
    """Put each ID on the raw queue, as any producer would: {"email_id": "ID"}.

    Ids come from the arguments, from --from-file or, if neither is given, from standard input. They are sent in batches
    of ten. Ids that SQS does not accept are tried again, and those that still fail are named at the end. An id that has
    no row yet, or whose row is not Pending, is enqueued too, and the command says what that means.

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
    ids = _checked(chain(email_ids, _lines(from_file)))
    lookup = Lookup(EmailStore.from_settings(settings))
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

            failed = enqueue_ids(queue, lookup.of(ids) if check else ids, sent)
    except BaseException:  # say how far it got, even if it is interrupted
        say(f"stopped after {enqueued} were enqueued on {queue.name}.", err=True)
        raise
    say(f"{enqueued} enqueued on {queue.name}." + (f" Follow it: {hint('status', email_ids[0])}" if email_ids else ""))
    for note in lookup.notes(settings.missing_row_wait):
        say(note, err=True)
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


@dataclass
class Lookup:
    """Looks up the rows of ids on their way to the queue, and counts those that are not Pending."""

    store: EmailStore
    _counts: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _named: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def of(self, email_ids: Iterable[str]) -> Iterator[str]:
        """Yield the ids, each after its row was looked up."""
        email_ids = iter(email_ids)
        while batch := list(islice(email_ids, BATCH)):
            try:
                statuses = self.store.statuses(batch)
            except (StoreUnavailable, StoreRefused) as error:
                raise click.ClickException(
                    f"The rows of {batch[0]} and the ids after it could not be looked up: {error}. Earlier ids are"
                    " enqueued. --no-check enqueues ids without looking at their rows."
                ) from None
            for email_id in batch:
                status = statuses.get(email_id) or EmailStatus.PENDING if email_id in statuses else "no row"
                if status != EmailStatus.PENDING:
                    self._counts[status] += 1
                    self._named[status] = [*self._named[status], email_id][:MAX_NAMED]
            yield from batch

    def notes(self, missing_row_wait: float) -> Iterator[str]:
        """Say which ids are not Pending and what to do about it."""
        for status, count in self._counts.items():
            named = self._named[status]
            ids = ", ".join(named) + (", …" if count > len(named) else "")
            if status == "no row":
                yield (
                    f"{count} without a row yet: {ids}. Write each row within {missing_row_wait:g} seconds, or its"
                    f" message becomes a dead letter: {hint('put', 'FILE')}"
                )
            elif status in (EmailStatus.FAILED, EmailStatus.UNKNOWN):
                resend = hint("resolve", named[0], "--resend")
                yield f"{count} {status}, which workers do not send again: {ids}. To send one again: {resend}"
            else:
                yield f"{count} {status}, which workers leave alone: {ids}. There is nothing to do."


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
