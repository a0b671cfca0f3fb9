"""From the pollers' threads to the consumer's loop, which may be an event loop or a thread that waits."""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery_sqs.liveness import LivenessFile

if TYPE_CHECKING:
    from celery_sqs.poller import Poller


class Inbox:
    """Readable, as a file descriptor, while something is in it."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._filled = threading.Condition()
        self._sockets: tuple[socket.socket, socket.socket] | None = None  # made for the event loop that asks for them

    def fileno(self) -> int:
        return self._pair()[0].fileno()

    def put(self, item: Any) -> None:
        with self._filled:
            self._items.append(item)
            self._filled.notify()
            was_empty = len(self._items) == 1
        if was_empty:  # else the loop is awake, or about to be
            self.wake()

    def get(self, timeout: float | None = None) -> Any:
        """The next item, or None after so many seconds without one."""
        with self._filled:
            self._filled.wait_for(lambda: self._items, timeout)
            return self._items.popleft() if self._items else None

    def wake(self, *, always: bool = False) -> None:
        """Make it readable where something is in it."""
        if (self._items or always) and self._sockets:
            # A full socket buffer wakes the loop as well as one more byte would; a closed one has nobody to wake.
            with suppress(OSError):
                self._sockets[1].send(b"\0")

    def drain_wakeups(self) -> None:
        with suppress(BlockingIOError):
            self._pair()[0].recv(4096)

    def close(self) -> None:
        for end in self._sockets or ():
            end.close()

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        if self._sockets is None:
            self._sockets = socket.socketpair()
            for end in self._sockets:
                end.settimeout(0)
            self.wake()
        return self._sockets


class ConsumerLoop:
    """What the channels of a connection have for its consumer, and how the consumer does."""

    def __init__(self, liveness_file: str | None) -> None:
        self.inbox = Inbox()  # functions to call in the consumer's thread
        self.beats = 0  # how often the loop came round, for Watchdog
        self.stalled = ""  # what Watchdog finds wrong with the consumer
        self.serves_worker = False  # Celery's worker consumes by it
        self._liveness_path = liveness_file
        self._liveness: LivenessFile | None = None
        self._watched: dict[str, Poller] = {}
        self._to_start: deque[Poller] = deque()

    def start_soon(self, poller: Poller) -> None:
        """Start the poller when the loop comes round.

        Every queue is known then, so that the first one does not take the prefetch of the others.
        """
        self._to_start.append(poller)
        self.inbox.wake(always=True)

    def watch(self, poller: Poller) -> None:
        """Say in the file of the option `liveness_file`, if there is one, that this process receives from the queue."""
        self._watched[poller.name] = poller
        if self._liveness_path and self._liveness is None:
            self._liveness = LivenessFile(self._liveness_path, self._watched, lambda: self.stalled)

    def forget(self, queue: str) -> None:
        """Say no more of the queue."""
        self._watched.pop(queue, None)

    def beat(self) -> None:
        """The loop is running."""
        self.beats += 1

    def deliver_next(self, timeout: float | None) -> bool:
        """Deliver the next message; says whether one came in time."""
        self.beat()  # a worker without an event loop comes here every two seconds (celery.worker.loops.synloop)
        self._start_pollers()
        deliver = self.inbox.get(timeout)
        if deliver:
            deliver()
        return bool(deliver)

    def deliver_all(self) -> None:
        """Deliver what there is: the inbox is readable."""
        self._start_pollers()
        self.inbox.drain_wakeups()
        try:
            while deliver := self.inbox.get(timeout=0):
                deliver()
        finally:
            self.inbox.wake()

    def close(self) -> None:
        self.inbox.close()
        if self._liveness:
            self._liveness.end()

    def _start_pollers(self) -> None:
        while self._to_start:
            self._to_start.popleft().start()
