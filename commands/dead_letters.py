"""The commands that list, show, redrive and delete dead letters."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from commands import say, say_json
from emails.dead_letters import dead_letter_queues
from emails.hints import hint
from emails.store import EmailStore
from settings import get_settings
from settings.aws import client
from tasks.dead_letters import summary, why_useless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from emails.dead_letters import DeadLetterQueue


@click.group()
def dead_letters() -> None:
    """List the dead letters, send them back to their queues, or delete them.

    A dead letter is a message that could not be processed. It stays in its queue's dead-letter queue for 14 days. While
    a command runs, the dead letters that it reads are hidden from other commands. If it is killed, they stay hidden for
    five minutes. SQS's view is approximate: a message may be missing if it has just arrived or is hidden.
    """


@dead_letters.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
def list_(as_json: bool) -> None:
    """Count each queue's dead letters by reason, and list them without their bodies."""
    found: dict[str, dict[str, Any]] = {}
    for queue in _queues():
        with queue, _progress(queue, "reading") as advance:
            about = queue.count()
            letters = []
            for read in queue.read():
                letters += [summary(letter) for letter in read]  # without the bodies, since there may be many
                advance(len(read))
        letters.sort(key=lambda letter: letter["Reason"])
        reasons = Counter(letter["Reason"] for letter in letters)
        found[queue.name] = {"Reasons": reasons, "NotSeen": max(0, about - len(letters)), "DeadLetters": letters}
    if as_json:
        say_json(found)
        return
    for name, view in found.items():
        say(f"{name}: {_counted(view['Reasons'])}")
        for letter in view["DeadLetters"]:
            say("  " + "  ".join(filter(None, letter.values())))
        if view["NotSeen"]:
            say(f"  about {view['NotSeen']} more, according to SQS: others hold them, or SQS does not show them yet")


@dead_letters.command()
@click.argument("message_id")
@click.option("--body", is_flag=True, help="Also show the body and the producer's attributes, which may be private.")
def show(message_id: str, body: bool) -> None:
    """Show one dead letter. MESSAGE_ID may also be the id of its task."""
    for queue in _queues():
        with queue:
            for letter in (letter for read in queue.read(message_id) for letter in read):
                story: dict[str, object] = {"MessageId": letter.message_id, "Queue": letter.queue, **summary(letter)}
                story["TaskId"] = letter.task_id
                story["Body"] = letter.body if body else f"{len(letter.body.encode())} bytes (--body shows it)"
                for name, attribute in letter.attributes.items() if body else ():
                    story[f"MessageAttributes.{name}"] = attribute.get("StringValue", attribute.get("BinaryValue"))
                width = max(map(len, story))
                for name, value in story.items():
                    if value:
                        say(f"{name:<{width}}  {value}")
                return
    raise _not_found(message_id)


def _chosen(command: Callable[..., None]) -> Callable[..., None]:
    command = click.argument("message_id", default="")(command)
    return click.option("--reason", default="", help="Only those with this reason.")(command)


@dead_letters.command()
@_chosen
def redrive(message_id: str, reason: str) -> None:
    """Send dead letters back to the queue they came from: all, those with one --reason, or one MESSAGE_ID.

    MESSAGE_ID may also be the id of its task. Fix what caused them first. A dead letter is deleted after SQS has
    confirmed that it was sent back. If the command is interrupted in between, the message exists twice, but its email
    is still sent only once. If an email is no longer to be sent, its dead letter stays and the command names it.

    \b
    Example:
      email-service dead-letters redrive --reason EmailNotFound
    """  # noqa: D301 (click looks for the control character, not for a backslash)
    _one_choice(message_id, reason)
    store = EmailStore.from_settings(get_settings())
    found, stay = 0, 0
    for queue in _queues():
        redriven = 0
        try:
            with queue, _progress(queue, "redriving") as advance:
                for letter, why in queue.redrive(partial(why_useless, store), message_id, reason):
                    found += 1
                    stay += bool(why)
                    redriven += not why
                    advance(1)
                    if why:
                        say(f"{letter.message_id} was not moved: {why}", err=True)
        finally:  # say how far it got, even if it is interrupted
            say(f"{queue.name}: {redriven} moved back to {queue.source}")
    if message_id and not found:
        raise _not_found(message_id)
    if stay:
        raise click.ClickException(f"{stay} of {found} were not moved: see above.")


@dead_letters.command()
@_chosen
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def discard(message_id: str, reason: str, yes: bool) -> None:
    """Delete dead letters permanently: all, those with one --reason, or one MESSAGE_ID.

    MESSAGE_ID may also be the id of its task. The command says what it found and asks first. Messages that arrive after
    the question are not deleted.
    """
    _one_choice(message_id, reason)
    with ExitStack() as stack:
        found: dict[DeadLetterQueue, dict[str, str]] = {}
        for queue in _queues():
            stack.enter_context(queue)
            with _progress(queue, "reading") as advance:
                found[queue] = {}
                for read in queue.read(message_id, reason):
                    found[queue] |= {letter.message_id: letter.reason for letter in read}
                    advance(len(read))
        if message_id and not any(found.values()):
            raise _not_found(message_id)
        for queue, reasons in found.items():
            say(f"{queue.name}: {_counted(reasons.values())}")
        if not any(found.values()):
            return
        if not yes:
            click.confirm("Delete them permanently?", abort=True, err=True)
        codes: dict[str, str] = {}
        try:
            for queue, reasons in found.items():
                codes.update(queue.delete(reasons))
        finally:  # say how far it got, even if it is interrupted
            stay = {letter: code for letter, code in codes.items() if code}
            say(f"{len(codes) - len(stay)} deleted.")
    for letter, code in stay.items():
        say(f"{letter} was not deleted: {code}", err=True)
    if stay:
        raise click.ClickException(f"{len(stay)} of {len(codes)} were not deleted: see above.")


def _queues() -> Iterator[DeadLetterQueue]:
    settings = get_settings()
    return dead_letter_queues(client("sqs", settings), settings)


def _one_choice(message_id: str, reason: str) -> None:
    if message_id and reason:
        raise click.UsageError("Give MESSAGE_ID or --reason, not both.")


def _counted(reasons: Iterable[str]) -> str:
    counts = Counter(reasons)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "none"


def _not_found(message_id: str) -> click.ClickException:
    return click.ClickException(
        f"There is no dead letter {message_id}, or SQS does not show it now: {hint('dead-letters list')}"
    )


@contextmanager
def _progress(queue: DeadLetterQueue, doing: str) -> Iterator[Callable[[int], Any]]:
    """Show progress on standard error if it is a terminal, and give a function that adds to the count."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn(f"{doing} {queue.name}"), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=queue.count())
        yield lambda count: progress.advance(bar, count)
