"""The command that resolves emails by a person's decision: one, or many at once."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from commands import read_units_option, say
from commands.list import found, reason_option, since_option, summary
from emails import operate
from emails.bulk import resolve_all
from emails.hints import hint
from emails.message import InvalidMessage, check_email_id
from emails.raw_queue import find_raw_queue
from emails.search import Search
from emails.status import NEEDS_PERSON, EmailStatus
from emails.store import EmailStore
from emails.store.attention import Tally
from settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

STDIN = "-"
IDS_AT_ONCE = 100  # the most ids that one BatchGetItem takes


@click.command()
@click.argument("email_id", metavar="[ID|-]", default="")
@click.option("--sent", is_flag=True, help="Mark as Sent, because the provider's log shows it.")
@click.option("--resend", is_flag=True, help="Send again, and reset the attempt counter.")
@click.option(
    "--status",
    "statuses",
    type=click.Choice([status.value for status in sorted(NEEDS_PERSON)]),
    multiple=True,
    help="All emails with this status, instead of one ID; may be repeated.",
)
@since_option
@reason_option
@click.option("--dry-run", is_flag=True, help="Show how many emails would be resolved, and change nothing.")
@click.option(
    "--confirm",
    type=click.IntRange(min=0),
    metavar="COUNT",
    help="Answer the question in advance: resolve only if there are exactly so many emails.",
)
@read_units_option
def resolve(  # noqa: PLR0913 (its options)
    *,
    email_id: str,
    sent: bool,
    resend: bool,
    statuses: tuple[str, ...],
    since: float,
    reason: str,
    dry_run: bool,
    confirm: int | None,
    read_units: float,
) -> None:
    """Resolve emails that are Unknown or Failed, as sent or to be sent again.

    Resolve the email ID, or all emails with a --status, or those whose ids are on standard input, one a line (-). For
    more than one, the command shows how many there are and asks first. It may be interrupted and repeated: it resolves
    only emails that still have the status that it showed, and says which it skipped.

    An email is Unknown if a worker or the provider's answer was lost. Before you use --resend, look for the id at the
    provider (header X-Email-Id), or somebody may get the email twice.

    \b
    Examples:
      email-service resolve order-1044 --sent
      email-service resolve --status Failed --since 2h --reason "no connection" --resend
      email-service list --reason quota --ids-only > ids; email-service resolve - --resend --dry-run < ids
    """  # noqa: D301 (click looks for the control character, not for a backslash)
    if sent == resend:
        raise click.UsageError("Give either --sent or --resend.")
    if bool(email_id) == bool(statuses):
        raise click.UsageError("Give an ID, - for ids on standard input, or --status.")
    if email_id and (since or reason):
        raise click.UsageError("--since and --reason need --status.")
    if email_id and email_id != STDIN:
        if dry_run or confirm is not None:
            raise click.UsageError("--dry-run and --confirm are for more than one email.")
        _resolve_one(email_id, sent=sent)
        return
    if email_id:
        chosen = _read_ids(EmailStore.from_settings(get_settings()))
    else:
        search = Search(frozenset(map(EmailStatus, statuses)), since, reason)
        chosen = _search(search, read_units)
    for line in summary(chosen.tally, chosen.by_status):
        say(line)
    if dry_run or not chosen.emails:
        say(f"{len(chosen.emails)} would be {'resent' if resend else 'marked as Sent'}.")
        return
    _ask(chosen, resend=resend, confirm=confirm, may_ask=not email_id)
    _resolve_many(chosen, resend=resend)


def _resolve_one(email_id: str, *, sent: bool) -> None:
    settings = get_settings()
    store = EmailStore.from_settings(settings)
    try:
        if sent:
            say(operate.mark_sent(store, email_id))
            return
        done = operate.resend(store, find_raw_queue(settings), email_id)
    except operate.Refused as refused:
        raise click.ClickException(str(refused)) from None
    say(f"{done} Follow it: {hint('status', email_id)}")


@dataclass
class Chosen:
    """The emails to resolve, by id, and how many there are by reason and by status."""

    emails: dict[str, EmailStatus] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    by_status: Counter[str] = field(default_factory=Counter)

    def add(self, email_id: str, status: EmailStatus, reason: str) -> None:
        self.emails[email_id] = status
        self.tally.add(reason)
        self.by_status[status] += 1


def _search(search: Search, read_units: float) -> Chosen:
    chosen = Chosen()
    with found(search, read_units) as (entries, _):
        for entry in entries:
            chosen.add(entry.email_id, EmailStatus(str(entry.status)), entry.reason)
    return chosen


def _read_ids(store: EmailStore) -> Chosen:
    """Read the ids on standard input, and say which of them are not to be resolved."""
    chosen = Chosen()
    ids = iter(dict.fromkeys(filter(_is_usable, (line.rstrip("\r\n") for line in sys.stdin))))
    while batch := list(islice(ids, IDS_AT_ONCE)):
        statuses = store.statuses(batch)
        for email_id in batch:
            status = statuses.get(email_id)
            if isinstance(status, EmailStatus) and status in NEEDS_PERSON:
                chosen.add(email_id, status, "")
            else:
                what = f"is {status or 'without a status'}" if email_id in statuses else "has no row"
                say(f"{email_id} is skipped: it {what}", err=True)
    return chosen


def _is_usable(email_id: str) -> bool:
    try:
        check_email_id(email_id)
    except InvalidMessage as error:
        if email_id:
            say(f"{email_id[:200]} is skipped: {error.detail}", err=True)
        return False
    return True


def _ask(chosen: Chosen, *, resend: bool, confirm: int | None, may_ask: bool) -> None:
    """Ask whether the emails should be resolved. Raises if the answer is no."""
    count, unknown = len(chosen.emails), chosen.by_status[EmailStatus.UNKNOWN]
    if confirm is None and not may_ask:
        raise click.ClickException(
            f"Nothing was changed. Standard input has the ids, so the question needs its answer: --confirm {count}"
        )
    if confirm is None and resend and unknown:
        say(f"{unknown} are Unknown: the provider may have accepted them, and then they are sent twice.", err=True)
        confirm = click.prompt(f"Type how many emails to send again ({count})", type=int, err=True)
    if confirm is None:
        what = "Send" if resend else "Mark"
        click.confirm(f"{what} {count} emails{' again' if resend else ' as Sent'}?", abort=True, err=True)
    elif confirm != count:
        raise click.ClickException(f"Nothing was changed: there are {count} emails, not {confirm}.")


def _resolve_many(chosen: Chosen, *, resend: bool) -> None:
    settings = get_settings()
    store, queue = EmailStore.from_settings(settings), find_raw_queue(settings)
    total = len(chosen.emails)
    resolved = skipped = failed = 0
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("resolving"), MofNCompleteColumn())
    display = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with _interruptible() as interrupted, display as progress:
        bar = progress.add_task("", total=total)
        for result in resolve_all(store, queue, chosen.emails.items(), resend=resend, stopped=interrupted.is_set):
            progress.advance(bar, 1)
            resolved += not result.why
            failed += result.failed
            skipped += bool(result.why) and not result.failed
            if result.why:
                say(f"{result.email_id} {'failed' if result.failed else 'is skipped'}: {result.why}", err=True)
    left = total - resolved - skipped - failed
    say(
        f"{resolved} {'Pending and enqueued' if resend else 'marked as Sent'}, {skipped} skipped, {failed} failed"
        + (f", {left} left as they were" if left else "")
        + "."
    )
    if failed:
        raise click.ClickException(f"{failed} failed: repeat the command later, or run {hint('sweep')}")
    if left:
        raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[Event]:
    """Let Ctrl-C set the event instead of raising an exception in the middle of a batch. A second one raises it."""
    interrupted = Event()
    previous = signal.getsignal(signal.SIGINT)

    def interrupt(*_: object) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)
