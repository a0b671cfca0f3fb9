"""Passes messages from the pollers' threads to the consumer, which runs in an event loop or in a blocking thread."""

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
    """A thread-safe queue with a file descriptor that is readable while the queue is not empty."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._filled = threading.Condition()
        self._sockets: tuple[socket.socket, socket.socket] | None = None  # made when an event loop asks for `fileno`

    def fileno(self) -> int:
        return self._pair()[0].fileno()

    def put(self, item: Any) -> None:
        with self._filled:
            self._items.append(item)
            self._filled.notify()
            was_empty = len(self._items) == 1
        if was_empty:  # otherwise the loop is already awake or about to wake
            self.wake()

    def get(self, timeout: float | None = None) -> Any:
        """Return the next item, or None if there is none within `timeout` seconds."""
        with self._filled:
            self._filled.wait_for(lambda: self._items, timeout)
            return self._items.popleft() if self._items else None

    def wake(self, *, always: bool = False) -> None:
        """Make the file descriptor readable if something is in the inbox, or in any case if `always` is true."""
        if (self._items or always) and self._sockets:
            # If the socket's buffer is full, the loop wakes anyway. If the socket is closed, there is no loop to wake.
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
    """Connects the channels of one connection with its consumer, and tracks the consumer's health."""

    def __init__(self, liveness_file: str | None) -> None:
        self.inbox = Inbox()  # functions to call in the consumer's thread
        self.beats = 0  # how often the loop has run, for Watchdog
        self.stalled = ""  # why Watchdog considers the consumer stalled; "" if it does not
        self.serves_worker = False  # whether the consumer is Celery's worker
        self._liveness_path = liveness_file
        self._liveness: LivenessFile | None = None
        self._watched: dict[str, Poller] = {}
        self._to_start: deque[Poller] = deque()

    def start_soon(self, poller: Poller) -> None:
        """Start the poller when the loop runs next.

        By then all queues are known, so the first one does not take the prefetch of the others.
        """
        self._to_start.append(poller)
        self.inbox.wake(always=True)

    def watch(self, poller: Poller) -> None:
        """Report the poller in the liveness file, if the option `liveness_file` is set."""
        self._watched[poller.name] = poller
        if self._liveness_path and self._liveness is None:
            self._liveness = LivenessFile(self._liveness_path, self._watched, lambda: self.stalled)

    def forget(self, queue: str) -> None:
        """Stop reporting the queue in the liveness file."""
        self._watched.pop(queue, None)

    def beat(self) -> None:
        """Note that the loop is running."""
        self.beats += 1

    def deliver_next(self, timeout: float | None) -> bool:
        """Deliver the next message. Return whether one came within `timeout` seconds."""
        self.beat()  # a worker without an event loop calls this every two seconds (celery.worker.loops.synloop)
        self._start_pollers()
        deliver = self.inbox.get(timeout)
        if deliver:
            deliver()
        return bool(deliver)

    def deliver_all(self) -> None:
        """Deliver everything in the inbox. The event loop calls this when the inbox is readable."""
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
