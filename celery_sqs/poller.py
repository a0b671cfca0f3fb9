"""Receives from one queue in its own threads, which wait while the prefetch is full."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from kombu.log import get_logger

from celery_sqs.log import OnceAMinute
from celery_sqs.per_process import at_exit, one_per_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery_sqs.prefetch import Prefetch

logger = get_logger(__name__)
complain = OnceAMinute(logger)

# The second thread receives only while the first one's receives come back full. It polls without waiting, because the
# part of the prefetch that it reserves is then missing for other queues.
THREADS = 2
LAST_BACKOFF_SECONDS = 20.0


class Pause:
    """Stops all pollers of the process from receiving while something that its tasks need is unavailable."""

    def __init__(self) -> None:
        self._until = 0.0

    def begin(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() + seconds)

    def left(self) -> float:
        return max(0.0, self._until - time.monotonic())


pause = Pause()


def stop_receiving_for(seconds: float, queue: str, code: str) -> None:
    """Receive nothing for so many seconds, because SQS denies access that every message needs. Log it once a minute."""
    complain("SQS denies access to our own queue %s (%s): nothing is received until access is allowed", queue, code)
    pause.begin(seconds)


class PausedQueues:
    """The queues from which no poller of the process receives for now, because a person paused them."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()

    def set(self, names: Iterable[str]) -> None:
        """Pause these queues, and no others."""
        self._names = frozenset(names)

    def __contains__(self, name: str) -> bool:
        return name in self._names


paused_queues = PausedQueues()
PAUSED_TICK_SECONDS = 1.0  # how often a paused poller looks whether it may go on

# SQS does not notice that a client is gone: it gives messages to an open long poll even after the client has closed the
# connection, and they stay in flight until their visibility time-out (aws-sdk-js issue 2350, aws-sdk-java-v2 issue
# 1395). Therefore a process should not exit before its long polls end. It waits no longer than this, so that a stop
# remains fast: `docker stop` kills after 10 seconds.
JOIN_SECONDS = 5.0


class Pollers:
    """The pollers of one process."""

    def __init__(self) -> None:
        self._started: WeakSet[Poller] = WeakSet()
        at_exit(self.let_stopped_give_back)

    def add(self, poller: Poller) -> None:
        self._started.add(poller)

    def receiving(self) -> list[Poller]:
        return [poller for poller in list(self._started) if not poller.is_stopped]

    def let_stopped_give_back(self, seconds: float = JOIN_SECONDS) -> None:
        """Wait up to `seconds` for the long polls that are still open after their pollers have stopped.

        What such a poll receives meanwhile, its poller gives back.
        """
        deadline = time.monotonic() + seconds
        for poller in list(self._started):
            if poller.is_stopped and poller.is_shared:
                poller.join(deadline)


def pollers_of_process() -> Pollers:
    return one_per_process(Pollers, Pollers)


class Poller:
    """Calls `receive(count, wait)` while `prefetch` allows it, and passes the messages to `accept`.

    Messages that are received after `stop` go to `give_back`. They may be ones that this process has just released. The
    same happens to messages from a long poll that was open when the queue was paused (`paused_queues`). `is_shared` is
    whether other processes receive from the queue, too.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (these arguments are all that it knows of a channel)
        self,
        name: str,
        prefetch: Prefetch,
        receive: Callable[[int, bool], list[dict[str, Any]]],
        accept: Callable[[list[dict[str, Any]]], None],
        give_back: Callable[[list[dict[str, Any]]], None],
        priority: int = 0,
        *,
        is_shared: bool = True,
    ) -> None:
        self.last_receive_at = time.time()
        self.parked = False
        self.name = name
        self._prefetch = prefetch
        self._receive = receive
        self._accept = accept
        self._give_back = give_back
        self.priority = priority
        self.is_shared = is_shared
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
        """Start no more receives. Does not wait for those in progress."""
        self._stopped.set()
        self._more.set()
        self._prefetch.wake()

    def figures(self) -> dict[str, Any]:
        """Return what `inspect stats` and the liveness file show about this poller."""
        return {"last_receive_at": self.last_receive_at, "parked": self.parked}

    @property
    def is_stopped(self) -> bool:
        return self._stopped.is_set()

    def join(self, deadline: float) -> None:
        """Wait for the receives in progress, until `deadline` on the monotonic clock."""
        for thread in self._threads:
            if thread.ident:  # the thread was started
                thread.join(max(0, deadline - time.monotonic()))

    def _run(self, is_first: bool) -> None:
        failures = 0
        while not self._stopped.is_set():
            if not is_first:
                self._more.wait()
            if is_first:
                self.parked = True
            self._stopped.wait(pause.left())
            while self.name in paused_queues and not self._stopped.is_set():
                self._stopped.wait(PAUSED_TICK_SECONDS)
            wanted = self._prefetch.take(self._stopped, self.priority)
            if pause.left() or self.name in paused_queues:  # the pause began while this thread waited
                self._prefetch.received(wanted, 0)
                continue
            if is_first:
                self.parked = False
            if not wanted:
                return
            try:
                messages = self._receive(wanted, is_first)
            except Exception as error:  # noqa: BLE001 (if this thread ended, nothing would be received any more)
                self._prefetch.received(wanted, 0)
                complain("cannot receive from %s; trying again: %r", self.name, error)
                failures += 1
                self._stopped.wait(min(2.0 ** (failures - 1), LAST_BACKOFF_SECONDS))
                continue
            failures = 0
            self.last_receive_at = time.time()
            self._prefetch.received(wanted, len(messages))
            if self._stopped.is_set() or self.name in paused_queues:
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
