"""Receives from one queue in a thread of its own: parked while there is no room, awake when there is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from kombu.log import get_logger

from celery_sqs.batches import MAX_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)

MAX_ERROR_DELAY_SECONDS = 30


class Room:
    """How many more messages a consumer may hold. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit = 0
        self._held = 0
        self._closed = False

    @property
    def limit(self) -> int:
        """The prefetch count; 0 is no limit."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with self._changed:
            self._limit = limit
            self._changed.notify_all()

    def take(self) -> int:
        """Wait for room for a whole receive (10, or the limit where it is less) and take it.

        Returns 0 once closed. To wait for 10 keeps a busy consumer from asking SQS for one message at a time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._free() >= self._wanted())
            if self._closed:
                return 0
            wanted = self._wanted()
            self._held += wanted
            return wanted

    def give_back(self, count: int) -> None:
        """So many are not held any more, or never came."""
        with self._changed:
            self._held -= count
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wanted(self) -> int:
        return min(MAX_ENTRIES, self._limit or MAX_ENTRIES)

    def _free(self) -> int:
        return self._limit - self._held if self._limit else MAX_ENTRIES


class Poller:
    """Calls `receive(count)` again and again while `room` allows it, and passes on what it brings to `deliver`.

    What a receive brings after `stop` goes to `release`.
    """

    def __init__(
        self,
        name: str,
        room: Room,
        receive: Callable[[int], list[dict[str, Any]]],
        deliver: Callable[[list[dict[str, Any]]], None],
        release: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self._room = room
        self._receive = receive
        self._deliver = deliver
        self._release = release
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"poll {name}", daemon=True)
        self._name = name

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Start no further receive."""
        self._stopped.set()

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set() and (count := self._room.take()):
            messages: list[dict[str, Any]] = []
            try:
                messages = self._receive(count)
                failures = 0
            except (BotoCoreError, ClientError) as error:
                failures += 1
                logger.error("cannot receive from %s: %s", self._name, error)
            finally:
                self._room.give_back(count - len(messages))
            if self._stopped.is_set():
                self._release(messages)
                self._room.give_back(len(messages))
            elif messages:
                self._deliver(messages)
            if failures:
                self._stopped.wait(min(2**failures, MAX_ERROR_DELAY_SECONDS))
