"""Limits how many messages a consumer holds, and shares that limit among the pollers of its queues."""

from __future__ import annotations

import threading
from itertools import count
from typing import Any

from kombu.transport import SQS

from celery_sqs.sqs.batches import MAX_ENTRIES


class Prefetch:
    """Counts the messages that a consumer holds, and tells its pollers how many more they may receive.

    The poller with the highest priority is served first, and pollers with the same priority in the order in which they
    asked. It is thread-safe.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit = 0
        self._held = 0
        self._asked_for = 0  # the part of `_held` that receives in progress have reserved
        self._waiting: list[tuple[int, int]] = []
        self._tickets = count()
        self.sharers = 1

    @property
    def limit(self) -> int:
        """The prefetch count. 0 means no limit."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def take(self, stopped: threading.Event, priority: int = 0) -> int:
        """Wait until there is room for a whole receive, and reserve it.

        Return how many messages the receive may ask for, or 0 if the poller was stopped. A whole receive is 10
        messages, because with less a busy consumer would receive one message at a time. If the limit is too small for
        10 messages per queue, each queue gets an equal share, so that one queue's long poll does not starve another. If
        everything held is reserved by receives in progress, as at the start, a receive may also ask for less than that.
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
        """Note that a receive for which `wanted` messages were reserved has returned `count` messages."""
        with self._changed:
            self._asked_for -= wanted
            self._held -= wanted - count
            self._changed.notify_all()

    def add(self) -> None:
        """Count one more held message, regardless of the limit."""
        with self._changed:
            self._held += 1

    def free(self, count: int) -> None:
        """Note that `count` messages are no longer held."""
        with self._changed:
            self._held -= count
            if self._wanted():
                self._changed.notify_all()

    def wake(self) -> None:
        """Wake all waiting pollers, so that they notice if they were stopped."""
        with self._changed:
            self._changed.notify_all()

    def _wanted(self) -> int:
        """Return how many messages a receive may ask for now."""
        if not self._limit:
            return MAX_ENTRIES
        share, free = min(MAX_ENTRIES, max(1, self._limit // self.sharers)), self._limit - self._held
        return share if free >= share else free if self._held == self._asked_for else 0


class QoS(SQS.QoS):
    """kombu's QoS, which counts in `prefetch` the messages that the channel's consumer holds."""

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
        """Do nothing. HeldMessages keeps the messages whose tasks run, and gives the others back."""
