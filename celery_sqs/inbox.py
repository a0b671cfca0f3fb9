"""From the pollers' threads to the consumer's: a queue that an event loop can watch, and a thread wait on."""

from __future__ import annotations

import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Any


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
