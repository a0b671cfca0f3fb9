"""Receives from one queue in threads of its own: parked while there is no room, awake as soon as there is."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from kombu.log import get_logger

from celery_sqs.per_process import at_exit, one_per_process
from celery_sqs.quiet import OnceAMinute
from celery_sqs.sqs.batches import MAX_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)
complain = OnceAMinute(logger)

# The second receives only while the first finds more than it can carry, and does not wait for more to come: the room
# that it takes would be missing elsewhere.
THREADS = 2
LAST_BACKOFF_SECONDS = 20.0


class Room:
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
        """Wait for room for a whole receive, and take it. Returns how much it is, or 0 once stopped.

        A receive is of 10 messages: less would make a busy consumer ask for one at a time. Where the limit is too small
        for 10 a queue it is shared out, so that no queue's long poll starves another; and while other receives are all
        that takes room, as at the start, before every queue is known, what they leave is enough.
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
        """Of the room that was taken, so much was needed."""
        with self._changed:
            self._asked_for -= wanted
            self._held -= wanted - count
            self._changed.notify_all()

    def add(self) -> None:
        """One more is held, whatever the limit."""
        with self._changed:
            self._held += 1

    def give_back(self, count: int) -> None:
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


class Pause:
    """Keeps every poller of the process from receiving, while what its tasks need is away."""

    def __init__(self) -> None:
        self._until = 0.0

    def begin(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() + seconds)

    def left(self) -> float:
        return max(0.0, self._until - time.monotonic())


pause = Pause()


def stop_receiving_for(seconds: float, queue: str, code: str) -> None:
    """Receive nothing for a while, because SQS denies what every message needs; say so once a minute."""
    complain("SQS denies access to our own queue %s (%s): nothing is received until it is allowed", queue, code)
    pause.begin(seconds)


# An idle long poll has nothing to give back; one that received a message answers at once.
JOIN_SECONDS = 0.5


class Pollers:
    """Those of one process."""

    def __init__(self) -> None:
        self._started: WeakSet[Poller] = WeakSet()
        at_exit(self.let_stopped_give_back)

    def add(self, poller: Poller) -> None:
        self._started.add(poller)

    def receiving(self) -> list[Poller]:
        return [poller for poller in list(self._started) if not poller.is_stopped]

    def let_stopped_give_back(self, seconds: float = JOIN_SECONDS) -> None:
        """Wait a moment for the long polls that are still open although their pollers have stopped.

        One of them may receive what this process has just released or sent, and gives it back.
        """
        deadline = time.monotonic() + seconds
        for poller in list(self._started):
            if poller.is_stopped:
                poller.join(deadline)


def pollers_of_process() -> Pollers:
    return one_per_process(Pollers, Pollers)


class Poller:
    """Calls `receive(count, wait)` while `room` allows it, and passes on what it brings to `accept`.

    What a receive brings after `stop` goes to `give_back`, since it may be what this process has just released.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (all that it knows of a channel)
        self,
        name: str,
        room: Room,
        receive: Callable[[int, bool], list[dict[str, Any]]],
        accept: Callable[[list[dict[str, Any]]], None],
        give_back: Callable[[list[dict[str, Any]]], None],
        priority: int = 0,
    ) -> None:
        self.last_receive_at = time.time()
        self.parked = False
        self.name = name
        self._room = room
        self._receive = receive
        self._accept = accept
        self._give_back = give_back
        self._priority = priority
        self._stopped = threading.Event()
        self._plenty = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number == 0,), name=f"poll {name} {number}", daemon=True)
            for number in range(THREADS)
        ]

    def start(self) -> None:
        pollers_of_process().add(self)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Start no further receive."""
        self._stopped.set()
        self._plenty.set()
        self._room.wake()

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def join(self, deadline: float) -> None:
        """Wait for the receives under way until then, on the monotonic clock."""
        for thread in self._threads:
            if thread.ident:  # it was started
                thread.join(max(0, deadline - time.monotonic()))

    def _run(self, is_first: bool) -> None:
        failures = 0
        while not self._stopped.is_set():
            if not is_first:
                self._plenty.wait()
            if is_first:
                self.parked = True
            self._stopped.wait(pause.left())
            wanted = self._room.take(self._stopped, self._priority)
            if pause.left():  # it began while this waited for room
                self._room.received(wanted, 0)
                continue
            if is_first:
                self.parked = False
            if not wanted:
                return
            try:
                messages = self._receive(wanted, is_first)
            except Exception as error:  # noqa: BLE001 (a thread that ends receives nothing, and nobody would know)
                self._room.received(wanted, 0)
                complain("cannot receive from %s, and keeps trying: %r", self.name, error)
                failures += 1
                self._stopped.wait(min(2.0 ** (failures - 1), LAST_BACKOFF_SECONDS))
                continue
            failures = 0
            self.last_receive_at = time.time()
            self._room.received(wanted, len(messages))
            if self._stopped.is_set():
                self._room.give_back(len(messages))
                self._give_back(messages)
            else:
                self._set_plenty(len(messages) == wanted)
                self._accept(messages)

    def _set_plenty(self, plenty: bool) -> None:
        if plenty:
            self._plenty.set()
        elif not self._stopped.is_set():
            self._plenty.clear()
