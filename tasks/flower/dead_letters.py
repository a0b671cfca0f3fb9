"""The Dead letters tab."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any

from tornado import web

from emails.dead_letters import dead_letter_queues
from settings import get_settings
from tasks.dead_letters import summary, why_useless
from tasks.flower.page import Page, Unavailable, services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emails.dead_letters import DeadLetterQueue, ReceivedDeadLetter

LISTED = 100  # dead letters of each queue
MOST_READ = 2000  # dead letters of each queue that are counted
READ_SECONDS = 8.0  # the longest that a page reads one queue
REDRIVE_SECONDS = 15.0  # the longest that a button redrives
NOTES = 20  # dead letters that stay and whose reasons are shown
LOCK_SECONDS = 5.0

# While somebody reads dead letters, SQS hides them from others, so only one page reads at a time.
_reading = Lock()


class TimeIsUpError(Exception):
    """A redrive has taken as long as it may."""


@dataclass
class View:
    """What is shown of a queue's dead letters."""

    name: str
    source: str
    letters: list[dict[str, Any]]
    reasons: Counter[str]
    not_seen: int


@dataclass
class Redriven:
    """What a redrive has done, in sentences."""

    done: str
    notes: list[str]


class DeadLettersPage(Page):
    """The Dead letters tab, with buttons that redrive one, all with one reason, or all of a queue."""

    @web.authenticated
    async def get(self) -> None:
        await self._show()

    @web.authenticated
    async def post(self) -> None:
        queue, message_id, reason = (self.text(name) for name in ("queue", "message_id", "reason"))
        if not queue or bool(message_id) + bool(reason) + (self.text("all") == "yes") != 1:
            raise web.HTTPError(HTTPStatus.BAD_REQUEST, "Name a queue, and one message, one reason or all")
        try:
            redriven, refused = await self.ask(redrive, queue, message_id, reason), ""
        except Unavailable as error:
            redriven, refused = None, str(error)
        await self._show(redriven, refused)

    async def _show(self, redriven: Redriven | None = None, refused: str = "") -> None:
        views: list[View] = []
        try:
            views = await self.ask(read_all)
        except Unavailable as error:
            self.set_status(HTTPStatus.SERVICE_UNAVAILABLE)
            refused = refused or str(error)
        self.show("dead_letters.html", views=views, redriven=redriven, refused=refused, listed=LISTED)


def read_all() -> list[View]:
    """Read the queues at the same time, because each read of SQS takes a second."""
    with _exclusive(), ThreadPoolExecutor() as threads:
        return list(threads.map(_read, _queues()))


def redrive(name: str, message_id: str, reason: str) -> Redriven:
    """Redrive dead letters of one queue, as `email-service dead-letters redrive` does, for a limited time."""
    ends = time.monotonic() + REDRIVE_SECONDS
    moved, notes, ended = 0, [], True

    def why_not(letter: ReceivedDeadLetter) -> str:
        if time.monotonic() > ends:
            raise TimeIsUpError  # here, no message has been sent back that is not deleted from this queue
        return why_useless(services().store, letter)

    with _exclusive():
        queue = next((queue for queue in _queues() if queue.name == name), None)
        if queue is None:
            raise Unavailable(f"There is no queue {name}.")
        try:
            with queue:
                for letter, why in queue.redrive(why_not, message_id, reason):
                    moved += not why
                    if why:
                        notes.append(f"{letter.message_id} was not moved: {why}")
        except TimeIsUpError:
            ended = False
    done = f"{moved} moved back to {queue.source}."
    if not ended:
        done += " There may be more: press the button again."
    elif not moved and not notes:
        done = "There is no such dead letter, or SQS does not show it now."
    if len(notes) > NOTES:
        notes[NOTES:] = [f"{len(notes) - NOTES} more were not moved."]
    return Redriven(done, notes)


def _queues() -> Iterator[DeadLetterQueue]:
    return dead_letter_queues(services().sqs, get_settings())


@contextmanager
def _exclusive() -> Iterator[None]:
    if not _reading.acquire(timeout=LOCK_SECONDS):
        raise Unavailable("Another page is reading the dead letters now: try again in some seconds.")
    try:
        yield
    finally:
        _reading.release()


def _read(queue: DeadLetterQueue) -> View:
    ends, now = time.monotonic() + READ_SECONDS, time.time()
    letters: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    with queue:
        about = queue.count()
        for read in queue.read():
            reasons.update(letter.reason for letter in read)
            letters += [
                summary(letter) | {"Age": max(0, now - letter.sent_at)} for letter in read[: LISTED - len(letters)]
            ]
            if reasons.total() >= MOST_READ or time.monotonic() > ends:
                break
    return View(queue.name, queue.source, letters, reasons, max(0, about - reasons.total()))
