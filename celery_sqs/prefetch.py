"""The messages that a consumer may hold, shared out among the pollers of its queues."""

from __future__ import annotations

import threading
from itertools import count
from typing import Any

from kombu.transport import SQS

from celery_sqs.sqs.batches import MAX_ENTRIES


class Prefetch:
    """How many more messages a consumer may hold, shared by the pollers of its queues. Thread-safe.

    The highest priority comes first, and of one priority who came first.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit = 0
        self._held = 0
        self._asked_for = 0  # of what is held, by receives that are under way
        self._waiting: list[tuple[int, int]] = []
        self._tickets = count()
        self.sharers = 1

    @property
    def limit(self) -> int:
        """The prefetch count; 0 is no limit."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def take(self, stopped: threading.Event, priority: int = 0) -> int:
        """Wait until a whole receive fits, and reserve it. Returns how many messages it may bring, 0 once stopped.

        A receive is of 10 messages: less would make a busy consumer ask for one at a time. Where the limit is too small
        for 10 a queue it is shared out, so that no queue's long poll starves another; and while other receives are all
        that is held, as at the start, before every queue is known, what they leave is enough.
        """
        with self._changed:
            ticket = (-priority, next(self._tickets))
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: stopped.is_set() or (min(self._waiting) == ticket and self._wanted() > 0))
            self._waiting.remove(ticket)
            self._changed.notify_all()
            if stopped.is_set():
                return 0
            wanted = self._wanted()
            self._held += wanted
            self._asked_for += wanted
            return wanted

    def received(self, wanted: int, count: int) -> None:
        """Of the messages that a receive might have brought, so many came."""
        with self._changed:
            self._asked_for -= wanted
            self._held -= wanted - count
            self._changed.notify_all()

    def add(self) -> None:
        """One more is held, whatever the limit."""
        with self._changed:
            self._held += 1

    def free(self, count: int) -> None:
        """So many are not held any more."""
        with self._changed:
            self._held -= count
            if self._wanted():
                self._changed.notify_all()

    def wake(self) -> None:
        """Let those who wait see that they are stopped."""
        with self._changed:
            self._changed.notify_all()

    def _wanted(self) -> int:
        """How many messages a receive may ask for now."""
        if not self._limit:
            return MAX_ENTRIES
        share, free = min(MAX_ENTRIES, max(1, self._limit // self.sharers)), self._limit - self._held
        return share if free >= share else free if self._held == self._asked_for else 0


class QoS(SQS.QoS):
    """kombu's: counts in `prefetch` what the channel's consumer holds."""

    def __init__(self, channel: Any, prefetch_count: int = 0) -> None:
        self.prefetch = Prefetch()
        super().__init__(channel, prefetch_count)

    @property
    def prefetch_count(self) -> int:
        return self.prefetch.limit

    @prefetch_count.setter
    def prefetch_count(self, count: int) -> None:
        self.prefetch.limit = count

    def ack(self, delivery_tag: str) -> None:
        if delivery_tag in self._delivered and delivery_tag not in self._dirty:
            super().ack(delivery_tag)
            self.prefetch.free(1)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Nothing to do: HeldMessages keeps what runs, and gives back what does not."""
