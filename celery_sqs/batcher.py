"""Collects entries for one of SQS's batch actions, and sends them from its own threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger

from celery_sqs.log import OnceAMinute
from celery_sqs.poller import stop_receiving_for
from celery_sqs.sqs.batches import MAX_ENTRIES, MAX_MESSAGE_BYTES, backoff_seconds, pack, try_batch
from celery_sqs.sqs.errors import ACCESS_DENIED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_sqs.sqs.queue import Queue

logger = get_logger(__name__)
complain = OnceAMinute(logger)

THREADS = 2
CAPACITY = 1000  # entries for one queue; when it is reached, adding another one blocks
ANSWER_SECONDS = 1.0  # receiving pauses for this long after the backoff, so that SQS can answer the next try


@dataclass
class Entry:
    """One entry for one queue. A batcher's thread calls `done` with SQS's error code, or with "" for success."""

    queue: Queue
    parameters: dict[str, Any]
    done: Callable[[str], None]
    size: int = 0  # in bytes; only messages have one
    added_at: float = field(default_factory=time.monotonic)


@dataclass
class PendingBatch:
    """The entries that wait for one queue.

    They are either new ones, or ones that failed while others in the same batch succeeded.
    """

    entries: deque[Entry] = field(default_factory=deque)
    failures: int = 0
    not_before: float = 0.0


class Batcher:
    """Sends a queue's entries in batches of up to 10 entries and 1 MiB.

    A batch is sent as soon as it is full, or when its oldest entry has waited for `linger` seconds. `send(queue,
    parameters)` makes the request and returns the error code of each entry. An entry that fails is sent again after a
    backoff until it succeeds, unless `is_final(queue, code)` says that a retry cannot help. If access is denied and
    that is not final, the process stops receiving until access is allowed again.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[Queue, list[dict[str, Any]]], list[str]],
        linger: float,
        is_final: Callable[[Queue, str], bool],
    ) -> None:
        self._name = name
        self._send = send
        self._linger = linger
        self._is_final = is_final
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # Publishers wait on a condition of their own, so that they do not take a wake-up meant for a batcher's thread.
        self._not_full = threading.Condition(lock)
        self._pending: dict[str, PendingBatch] = {}
        self._retries: dict[str, PendingBatch] = {}
        self._waiting = 0
        self._in_flight = 0
        self._flushing = False
        self._threads: list[threading.Thread] = []

    def add(self, entry: Entry, *, may_wait: bool = True) -> None:
        """Add an entry. Block while the queue's buffer is full, unless `may_wait` is false.

        A thread that empties the buffer must not wait for itself.
        """
        with self._changed:
            if not self._threads:
                self._start()
            if may_wait:
                self._not_full.wait_for(lambda: self._waiting_for(entry.queue.url) < CAPACITY)
            pending = self._pending.setdefault(entry.queue.url, PendingBatch())
            pending.entries.append(entry)
            self._waiting += 1
            # After the first entry, a thread is already waiting until it is due. Waking the thread for each entry would
            # cost more CPU than the batch saves.
            if len(pending.entries) == 1 or self._due_at(pending) <= time.monotonic():
                self._changed.notify()

    def flush_soon(self) -> None:
        """Send everything that waits now without lingering."""
        with self._changed:
            if self._waiting:
                self._flushing = True
                self._changed.notify_all()

    def flush(self, seconds: float) -> int:
        """Send all entries, and wait up to `seconds` for the answers. Return how many entries have no answer yet."""
        self.flush_soon()
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._in_flight), seconds)
            return self._waiting + self._in_flight

    def _waiting_for(self, url: str) -> int:
        return sum(len(waiting[url].entries) for waiting in (self._pending, self._retries) if url in waiting)

    def _start(self) -> None:
        for number in range(THREADS):
            thread = threading.Thread(target=self._run, name=f"{self._name} {number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (taken := self._take()) is None:
                    self._changed.wait(self._seconds_to_next())
                pending, batch = taken
                self._in_flight += len(batch)
            self._transmit(pending, batch)

    def _take(self) -> tuple[PendingBatch, list[Entry]] | None:
        """Take the next batch that is due, and return it with its PendingBatch. Return None if nothing is due.

        The caller holds the lock.
        """
        for pending in self._all_pending():
            if pending.entries and self._due_at(pending) <= time.monotonic():
                batch = next(pack(pending.entries, lambda entry: entry.size))
                for _ in batch:
                    pending.entries.popleft()
                self._waiting -= len(batch)
                self._flushing = self._flushing and self._waiting > 0
                self._changed.notify_all()
                self._not_full.notify_all()
                return pending, batch
        return None

    def _all_pending(self) -> Iterator[PendingBatch]:
        return chain(self._pending.values(), self._retries.values())

    def _due_at(self, pending: PendingBatch) -> float:
        full = len(pending.entries) >= MAX_ENTRIES or sum(entry.size for entry in pending.entries) >= MAX_MESSAGE_BYTES
        linger = 0 if full or self._flushing else self._linger
        return max(pending.entries[0].added_at + linger, pending.not_before)

    def _seconds_to_next(self) -> float | None:
        due = [self._due_at(pending) for pending in self._all_pending() if pending.entries]
        return max(0, min(due) - time.monotonic()) if due else None

    def _transmit(self, pending: PendingBatch, batch: list[Entry]) -> None:
        queue = batch[0].queue
        codes = self._codes(queue, batch)
        done = [not code or self._is_final(queue, code) for code in codes]
        again = [entry for entry, is_done in zip(batch, done, strict=True) if not is_done]
        if again:
            code, text = codes[done.index(False)], "%s: SQS did not accept %d of %d for %s (%s); trying again"
            complain(text, self._name, len(again), len(batch), queue.name, code)
        for entry, entrys_code, is_done in zip(batch, codes, done, strict=True):
            if is_done:
                self._tell(entry, entrys_code)
            else:
                entry.added_at = float("-inf")  # so that it does not linger again
        with self._changed:
            if 0 < len(again) < len(batch):  # the queue works, so new entries need not wait behind the failed ones
                pending = self._retries.setdefault(queue.url, PendingBatch())
            pending.entries.extendleft(reversed(again))
            pending.failures = pending.failures + 1 if again else 0
            backoff = backoff_seconds(pending.failures)
            pending.not_before = time.monotonic() + backoff
            self._waiting += len(again)
            self._in_flight -= len(batch)
            self._changed.notify_all()
        if again and code in ACCESS_DENIED:
            stop_receiving_for(backoff + ANSWER_SECONDS, queue.name, code)

    def _codes(self, queue: Queue, batch: list[Entry]) -> list[str]:
        """Send the batch, and return the error code of each entry."""
        try:
            parameters = [entry.parameters for entry in batch]
            return try_batch(partial(self._send, queue), parameters, partial(self._is_final, queue))
        except Exception as error:  # noqa: BLE001 (if this thread ended, nothing would be sent any more)
            return [type(error).__name__] * len(batch)

    @staticmethod
    def _tell(entry: Entry, code: str) -> None:
        try:
            entry.done(code)
        except Exception:  # if this thread ended, nothing would be sent, and nobody would notice
            logger.exception("the callback of an entry for %s failed", entry.queue.name)
