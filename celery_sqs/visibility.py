"""Keeps the messages that this process holds invisible to others for as long as it holds them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from kombu.log import get_logger

from celery_sqs.quiet import OnceAMinute
from celery_sqs.sqs.batches import MAX_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_sqs.deliveries import Delivery

logger = get_logger(__name__)
complain = OnceAMinute(logger)

# SQS Developer Guide, "Amazon SQS visibility timeout": from its receive on, a message is invisible 12 hours at most.
MAX_INVISIBLE_SECONDS = 12 * 3600

# An extension at a third of the time-out leaves two more chances before it runs out.
EXTEND_AT = 1 / 3
LONGEST_TICK_SECONDS = 10.0


class VisibilityKeeper:
    """Extends, in batches and from a thread of its own, whatever `held()` names."""

    def __init__(self, held: Callable[[], list[Delivery]]) -> None:
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
        due = [d for d in self._held() if now - d.extended_at >= d.visibility_timeout * EXTEND_AT and not d.lost]
        for batch in batches_by_queue(due):
            with self._extending:
                still_held = set(self._held())
                kept = [d for d in batch if d in still_held and self._may_extend(d, now)]
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
                shortest = min(delivery.visibility_timeout for delivery in held)
                threading.Event().wait(min(shortest * EXTEND_AT / 4, LONGEST_TICK_SECONDS))
            else:
                self._watching.clear()
                if self._held():  # one came between the two
                    self._watching.set()

    @staticmethod
    def _may_extend(delivery: Delivery, now: float) -> bool:
        if now + delivery.visibility_timeout - delivery.received_at <= MAX_INVISIBLE_SECONDS:
            return True
        delivery.lost = True
        message_id, queue = delivery.message["MessageId"], delivery.queue.name
        logger.error("message %s of %s is held for 12 hours: SQS will hand it out again", message_id, queue)
        return False

    @staticmethod
    def _extend_batch(batch: list[Delivery], now: float) -> None:
        queue = batch[0].queue
        entries = [{"ReceiptHandle": d.tag, "VisibilityTimeout": d.visibility_timeout} for d in batch]
        try:
            codes = queue.change_visibility_batch(entries)
        except Exception as error:  # noqa: BLE001 (a thread that ends keeps nothing, and nobody would know)
            complain("cannot keep messages of %s invisible: %r", queue.name, error)
            return
        for delivery, code in zip(batch, codes, strict=True):
            if not code:
                delivery.extended_at = now
            elif delivery.lost_by(code):
                logger.warning(
                    "message %s of %s is lost to this worker: %s", delivery.message["MessageId"], queue.name, code
                )


def batches_by_queue(deliveries: list[Delivery]) -> Iterator[list[Delivery]]:
    """The deliveries in batches of ten, each of one queue."""
    by_url: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        by_url.setdefault(delivery.queue.url, []).append(delivery)
    for held in by_url.values():
        for first in range(0, len(held), MAX_ENTRIES):
            yield held[first : first + MAX_ENTRIES]
