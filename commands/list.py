"""The command that lists emails."""

from __future__ import annotations

import heapq
import re
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import Progress as Display
from rich.progress import SpinnerColumn, TextColumn

from commands import is_terminal, read_units_option, say, say_id, say_json
from emails.hints import hint
from emails.mailbox import parse_mailbox
from emails.message import InvalidMessage, check_email_id
from emails.search import Progress, Search
from emails.status import NEEDS_PERSON, EmailStatus
from emails.store import Attention, EmailStore, IndexMissing
from emails.store.attention import Tally
from settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from emails.store import Entry
    from settings import Settings

LISTED = 100
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Since(click.ParamType[float]):
    """A duration before now, or a time in ISO 8601. Its value is in epoch seconds."""

    name = "since"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "DURATION|TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        if duration := re.fullmatch(r"(\d{1,9})([smhd])", value):
            return time.time() - int(duration[1]) * UNITS[duration[2]]
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail("should be like 30m, 2h or 7d, or a time like 2026-01-31T12:00Z", param, ctx)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


since_option = click.option(
    "--since", type=Since(), default=0.0, help="Only emails that got their status since then, such as 30m, 2h or 7d."
)
reason_option = click.option(
    "--reason", metavar="TEXT", default="", help="Only emails whose FailureReason contains this text."
)


@click.command()
@click.option(
    "--status",
    "statuses",
    type=click.Choice([status.value for status in EmailStatus]),
    multiple=True,
    help="Only emails with this status; may be repeated.  [default: Failed and Unknown]",
)
@since_option
@reason_option
@click.option("--recipient", metavar="ADDRESS", default="", help="Only emails to this address, in any status.")
@click.option("--limit", type=click.IntRange(min=1), help=f"List so many.  [default: {LISTED}; with --ids-only, all]")
@click.option("--ids-only", is_flag=True, help="Print only ids, one a line, for other commands.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
@read_units_option
def list(  # noqa: A001, PLR0913 (the command's name and its options)
    *,
    statuses: tuple[str, ...],
    since: float,
    reason: str,
    recipient: str,
    limit: int | None,
    ids_only: bool,
    as_json: bool,
    read_units: float,
) -> None:
    """List emails, the newest first, with the number of emails for each reason at the end.

    Failed and Unknown emails come from an index of the table. Any other status, and --recipient, need a scan of the
    whole table at a limited rate. The time of an email is that of its last transition. One that no worker has seen yet
    has no time, so --since leaves it out.

    \b
    Examples:
      email-service list --since 2h
      email-service list --status Pending --limit 10
      email-service list --reason "no such mailbox" --ids-only
    """  # noqa: D301 (click looks for the control character, not for a backslash)
    if as_json and ids_only:
        raise click.UsageError("Give --json or --ids-only, not both.")
    chosen = frozenset(map(EmailStatus, statuses)) or (frozenset() if recipient else NEEDS_PERSON)
    search = Search(chosen, since, reason, _address(recipient))
    if ids_only:
        _say_ids(search, limit, read_units)
        return
    tally, by_status = Tally(), Counter[str]()

    def counted(entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            tally.add(entry.reason)
            by_status[entry.status or "no status"] += 1
            yield entry

    with found(search, read_units) as (entries, in_order):
        newest = _first(counted(entries), limit or LISTED, in_order=in_order)
    if as_json:
        say_json(
            {
                "Emails": [_report(entry) for entry in newest],
                "Count": tally.total,
                "Reasons": dict(tally.by_reason.most_common()),
                "OtherReasons": tally.others,
            }
        )
        return
    width = max((len(entry.status or "no status") for entry in newest), default=0)
    for entry in newest:
        status = f"{entry.status or 'no status':<{width}}"
        say(f"{entry.email_id}  {status}  {_moment(entry) or 'no time yet':<20}  {entry.reason}".rstrip())
    for line in summary(tally, by_status, len(newest)):
        say(line)


@contextmanager
def found(search: Search, read_units: float, *, quiet: bool = False) -> Iterator[tuple[Iterator[Entry], bool]]:
    """Find the emails, and say whether the newest come first. Shows progress on standard error unless `quiet`."""
    settings = get_settings()
    console = Console(stderr=True)
    with Display(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
        redirect_stdout=False,  # or the ids would go to standard error
    ) as display:
        task = display.add_task("looking for emails", total=None)
        if not search.needs_scan:
            entries = search.by_index(Attention.from_settings(settings))
            try:
                head = [entry for entry in [next(entries, None)] if entry]
            except IndexMissing:
                say(_no_index(settings), err=True)
            else:
                yield _watched(chain(head, entries), lambda text: display.update(task, description=text)), True
                return

        def show(so_far: Progress) -> None:
            text = f"scanning {settings.table}: {so_far.found} found, {so_far.read_units:g} read units"
            display.update(task, description=text)

        yield search.by_scan(EmailStore.from_settings(settings), read_units, show), False


def summary(tally: Tally, by_status: Counter[str], listed: int | None = None) -> Iterator[str]:
    """Yield lines that say how many emails there are, and how many for each reason."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(by_status.items()))
    of_these = f"; the newest {listed} are listed" if listed is not None and listed < tally.total else ""
    yield f"{counts or 'none'}{of_these}"
    for reason, count in tally.by_reason.most_common():
        if reason:
            yield f"{count:>7}  {reason}"
    if tally.others:
        yield f"{tally.others:>7}  with other reasons"


def _watched(entries: Iterator[Entry], update: Callable[[str], object]) -> Iterator[Entry]:
    for number, entry in enumerate(entries, 1):
        if not number % 1000:
            update(f"{number} found")
        yield entry


def _first(entries: Iterator[Entry], limit: int, *, in_order: bool) -> tuple[Entry, ...]:
    """Return the newest entries, after reading all of them, since all are counted."""
    if not in_order:
        return tuple(heapq.nlargest(limit, entries, key=lambda entry: entry.since))
    first = tuple(entry for _, entry in zip(range(limit), entries, strict=False))
    for _ in entries:
        pass
    return first


def _say_ids(search: Search, limit: int | None, read_units: float) -> None:
    unusable = 0
    with found(search, read_units, quiet=is_terminal()) as (entries, in_order):
        for entry in _first(entries, limit, in_order=in_order) if limit else entries:
            try:
                say_id(check_email_id(entry.email_id))
            except InvalidMessage:
                unusable += 1
    if unusable:
        say(
            f"{unusable} left out, because no message can carry their id; `list` without --ids-only shows them",
            err=True,
        )


def _address(recipient: str) -> str:
    try:
        return parse_mailbox(recipient).addr_spec if recipient else ""
    except ValueError as error:
        raise click.UsageError(f"--recipient {error}.") from None


def _report(entry: Entry) -> dict[str, object]:
    return {
        "EmailId": entry.email_id,
        "EmailStatus": entry.status,
        "Since": _moment(entry) or None,
        "FailureReason": entry.reason,
    }


def _moment(entry: Entry) -> str:
    """Return the time of the entry, or "" if it has none."""
    try:
        return f"{datetime.fromtimestamp(entry.since, UTC):%Y-%m-%dT%H:%M:%SZ}" if entry.since else ""
    except (ValueError, OverflowError):  # it is not in the years 1 to 9999
        return str(entry.since)


def _no_index(settings: Settings) -> str:
    return (
        f"{settings.table} has no index of the emails that need a person, or it is still being built, so the whole"
        f" table is scanned. To add the index: {hint('provision', '', '--backfill')}"
    )
