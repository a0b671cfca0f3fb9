"""Keeps messages invisible to other consumers for as long as this process holds them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from kombu.log import get_logger

from celery_sqs.log import OnceAMinute
from celery_sqs.sqs.batches import MAX_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_sqs.held_message import HeldMessage
    from celery_sqs.sqs.queue import Queue

logger = get_logger(__name__)
complain = OnceAMinute(logger)

# After it was received, a message can be invisible for at most 12 hours (SQS Developer Guide, "Amazon SQS visibility
# timeout").
MAX_INVISIBLE_SECONDS = 12 * 3600

# Extending after a third of the time-out leaves two more attempts before it runs out.
EXTEND_AT = 1 / 3
LONGEST_TICK_SECONDS = 10.0


class VisibilityKeeper:
    """Extends the visibility time-outs of the messages that `held()` returns, in batches and from its own thread."""

    def __init__(self, held: Callable[[], list[HeldMessage]]) -> None:
        self._held = held
        self._watching = threading.Event()
        self._start = threading.Lock()
        self._extending = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """Start extending, because a message is now held."""
        if not self._watching.is_set():
            self._watching.set()
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="visibility", daemon=True)
                    self._thread.start()

    def extend(self) -> None:
        """Extend the time-out of each message if a third of it has passed."""
        now = time.monotonic()
        due = [m for m in self._held() if now - m.extended_at >= m.visibility_timeout * EXTEND_AT and not m.lost]
        for batch in batches_by_queue(due):
            with self._extending:
                still_held = set(self._held())
                kept = [message for message in batch if message in still_held and self._may_extend(message, now)]
                if kept:
                    self._extend_batch(kept, now)

    def wait_until_extended(self, seconds: float) -> None:
        """Wait up to `seconds` for a request in progress, which could hide a message that is being given back.

        Later requests do not include messages that are no longer held.
        """
        if self._extending.acquire(timeout=seconds):
            self._extending.release()

    def _run(self) -> None:
        while True:
            self._watching.wait()
            held = self._held()
            if held:
                self.extend()
                shortest = min(message.visibility_timeout for message in held)
                threading.Event().wait(min(shortest * EXTEND_AT / 4, LONGEST_TICK_SECONDS))
            else:
                self._watching.clear()
                if self._held():  # a message was added just before `clear`
                    self._watching.set()

    @staticmethod
    def _may_extend(message: HeldMessage, now: float) -> bool:
        if now + message.visibility_timeout - message.received_at <= MAX_INVISIBLE_SECONDS:
            return True
        message.lost = True
        text = "message %s of %s has been held for 12 hours: SQS will deliver it again"
        logger.error(text, message.id, message.queue.name)
        return False

    @staticmethod
    def _extend_batch(batch: list[HeldMessage], now: float) -> None:
        queue = batch[0].queue
        entries = [{"ReceiptHandle": m.tag, "VisibilityTimeout": m.visibility_timeout} for m in batch]
        try:
            codes = queue.change_visibility_batch(entries)
        except Exception as error:  # noqa: BLE001 (if this thread ended, no time-out would be extended any more)
            complain("cannot keep messages of %s invisible: %r", queue.name, error)
            return
        for message, code in zip(batch, codes, strict=True):
            if not code:
                message.extended_at = now
            elif message.lost_by(code):
                text = "this worker no longer holds message %s of %s: %s"
                logger.warning(text, message.id, queue.name, code)


def make_visible(queue: Queue, handles: list[str], after: int = 0) -> None:
    """Make up to ten messages visible again after so many seconds.

    If that fails, they become visible when their time-out ends.
    """
    entries = [{"ReceiptHandle": handle, "VisibilityTimeout": after} for handle in handles]
    try:
        if entries:
            queue.change_visibility_batch(entries)
    except Exception as error:  # noqa: BLE001 (the messages also come back when their time-out ends)
        complain("cannot give back messages of %s: %s; they become visible again by themselves", queue.name, error)


def batches_by_queue(messages: list[HeldMessage]) -> Iterator[list[HeldMessage]]:
    """Yield the messages in batches of up to ten, each of which belongs to one queue."""
    by_url: dict[str, list[HeldMessage]] = {}
    for message in messages:
        by_url.setdefault(message.queue.url, []).append(message)
    for held in by_url.values():
        for first in range(0, len(held), MAX_ENTRIES):
            yield held[first : first + MAX_ENTRIES]
