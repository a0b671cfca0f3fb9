"""Keeps the messages that this process holds invisible to others for as long as it holds them."""

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

# SQS Developer Guide, "Amazon SQS visibility timeout": from its receive on, a message is invisible 12 hours at most.
MAX_INVISIBLE_SECONDS = 12 * 3600

# An extension at a third of the time-out leaves two more chances before it runs out.
EXTEND_AT = 1 / 3
LONGEST_TICK_SECONDS = 10.0


class VisibilityKeeper:
    """Extends, in batches and from a thread of its own, whatever `held()` names."""

    def __init__(self, held: Callable[[], list[HeldMessage]]) -> None:
        self._held = held
        self._watching = threading.Event()
        self._start = threading.Lock()
        self._extending = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self) -> None:
        """Something is held."""
        if not self._watching.is_set():
            self._watching.set()
            with self._start:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="visibility", daemon=True)
                    self._thread.start()

    def extend(self) -> None:
        """Extend each message that has spent a third of its time-out."""
        now = time.monotonic()
        due = [m for m in self._held() if now - m.extended_at >= m.visibility_timeout * EXTEND_AT and not m.lost]
        for batch in batches_by_queue(due):
            with self._extending:
                still_held = set(self._held())
                kept = [message for message in batch if message in still_held and self._may_extend(message, now)]
                if kept:
                    self._extend_batch(kept, now)

    def wait_until_extended(self, seconds: float) -> None:
        """Wait for the request that is under way, which may hide a message again that is being given back.

        What is not held any more is in no later request.
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
                if self._held():  # one came between the two
                    self._watching.set()

    @staticmethod
    def _may_extend(message: HeldMessage, now: float) -> bool:
        if now + message.visibility_timeout - message.received_at <= MAX_INVISIBLE_SECONDS:
            return True
        message.lost = True
        text = "message %s of %s is held for 12 hours: SQS will hand it out again"
        logger.error(text, message.id, message.queue.name)
        return False

    @staticmethod
    def _extend_batch(batch: list[HeldMessage], now: float) -> None:
        queue = batch[0].queue
        entries = [{"ReceiptHandle": m.tag, "VisibilityTimeout": m.visibility_timeout} for m in batch]
        try:
            codes = queue.change_visibility_batch(entries)
        except Exception as error:  # noqa: BLE001 (a thread that ends keeps nothing, and nobody would know)
            complain("cannot keep messages of %s invisible: %r", queue.name, error)
            return
        for message, code in zip(batch, codes, strict=True):
            if not code:
                message.extended_at = now
            elif message.lost_by(code):
                text = "message %s of %s is lost to this worker: %s"
                logger.warning(text, message.id, queue.name, code)


def make_visible(queue: Queue, handles: list[str], after: int = 0) -> None:
    """Let up to ten messages be received again after so many seconds; where that fails they come back by themselves."""
    entries = [{"ReceiptHandle": handle, "VisibilityTimeout": after} for handle in handles]
    try:
        if entries:
            queue.change_visibility_batch(entries)
    except Exception as error:  # noqa: BLE001 (whoever gives back is on the way out, and time does it too)
        complain("cannot give back messages of %s: %s; they come back by themselves", queue.name, error)


def batches_by_queue(messages: list[HeldMessage]) -> Iterator[list[HeldMessage]]:
    """The messages in batches of ten, each of one queue."""
    by_url: dict[str, list[HeldMessage]] = {}
    for message in messages:
        by_url.setdefault(message.queue.url, []).append(message)
    for held in by_url.values():
        for first in range(0, len(held), MAX_ENTRIES):
            yield held[first : first + MAX_ENTRIES]
