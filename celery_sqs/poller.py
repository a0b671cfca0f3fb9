"""Receives from one queue in threads of its own: parked while the prefetch is full, awake as soon as it is not."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from kombu.log import get_logger

from celery_sqs.log import OnceAMinute
from celery_sqs.per_process import at_exit, one_per_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.prefetch import Prefetch

logger = get_logger(__name__)
complain = OnceAMinute(logger)

# The second receives only while the first finds more than it can carry, and does not wait for more to come: the places
# that it takes would be missing elsewhere.
THREADS = 2
LAST_BACKOFF_SECONDS = 20.0


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
    """Calls `receive(count, wait)` while `prefetch` allows it, and passes on what it brings to `accept`.

    What a receive brings after `stop` goes to `give_back`, since it may be what this process has just released.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (all that it knows of a channel)
        self,
        name: str,
        prefetch: Prefetch,
        receive: Callable[[int, bool], list[dict[str, Any]]],
        accept: Callable[[list[dict[str, Any]]], None],
        give_back: Callable[[list[dict[str, Any]]], None],
        priority: int = 0,
    ) -> None:
        self.last_receive_at = time.time()
        self.parked = False
        self.name = name
        self._prefetch = prefetch
        self._receive = receive
        self._accept = accept
        self._give_back = give_back
        self._priority = priority
        self._stopped = threading.Event()
        self._more = threading.Event()
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
        self._more.set()
        self._prefetch.wake()

    def figures(self) -> dict[str, Any]:
        """What `inspect stats` and the liveness file say of it."""
        return {"last_receive_at": self.last_receive_at, "parked": self.parked}

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
                self._more.wait()
            if is_first:
                self.parked = True
            self._stopped.wait(pause.left())
            wanted = self._prefetch.take(self._stopped, self._priority)
            if pause.left():  # it began while this waited
                self._prefetch.received(wanted, 0)
                continue
            if is_first:
                self.parked = False
            if not wanted:
                return
            try:
                messages = self._receive(wanted, is_first)
            except Exception as error:  # noqa: BLE001 (a thread that ends receives nothing, and nobody would know)
                self._prefetch.received(wanted, 0)
                complain("cannot receive from %s, and keeps trying: %r", self.name, error)
                failures += 1
                self._stopped.wait(min(2.0 ** (failures - 1), LAST_BACKOFF_SECONDS))
                continue
            failures = 0
            self.last_receive_at = time.time()
            self._prefetch.received(wanted, len(messages))
            if self._stopped.is_set():
                self._prefetch.free(len(messages))
                self._give_back(messages)
            else:
                self._set_more(len(messages) == wanted)
                self._accept(messages)

    def _set_more(self, more: bool) -> None:
        if more:
            self._more.set()
        elif not self._stopped.is_set():
            self._more.clear()
