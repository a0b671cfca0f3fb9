"""Ends a worker that does not react to signals any more, because its main thread is busy for ever.

A first SIGTERM asks a worker to stop, and it stops when its consumer's loop comes round. If the loop does not come
round, a second SIGTERM (or SIGINT) ends the process, and so does a SIGQUIT. A worker that is already stopping is left
alone.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from billiard import active_children
from celery.platforms import EX_FAILURE

from celery_sqs.held_messages import held_messages
from celery_sqs.poller import pollers_of_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long the loop of a healthy worker may take to see that it is to stop, at the most.
OBEY_SECONDS = 2.0
CHECK_EVERY_SECONDS = 0.25
RELEASE_SECONDS = 5


class ForcedExit:
    """Watches, once a signal has asked for it, whether the worker stops, and ends the process if it does not.

    `is_running` says whether the worker has not begun to stop, `is_stalled` whether its consumer is stalled. Everything
    but the release of the messages happens in signal handlers: Python runs them in a main thread that is busy, too.
    """

    def __init__(self, is_running: Callable[[], bool], is_stalled: Callable[[], bool]) -> None:
        self._is_running = is_running
        self._is_stalled = is_stalled
        self._seen: set[int] = set()
        self._watching = False
        self._handlers_running = 0
        self._disobeyed = 0.0  # seconds

    def signalled(self, number: int) -> None:
        """Note a signal that asks the worker to stop."""
        if not self._watching and (number == signal.SIGQUIT or number in self._seen):
            self._watching = True
            signal.signal(signal.SIGALRM, lambda *_: self._check())
            signal.setitimer(signal.ITIMER_REAL, CHECK_EVERY_SECONDS, CHECK_EVERY_SECONDS)
        self._seen.add(number)

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Celery's handler runs: that for SIGQUIT waits for what runs in a pool of threads."""
        self._handlers_running += 1
        try:
            yield
        finally:
            self._handlers_running -= 1

    def _check(self) -> None:
        if not self._is_running():
            signal.setitimer(signal.ITIMER_REAL, 0)
        elif self._handlers_running and not self._is_stalled():
            self._disobeyed = 0
        else:
            self._disobeyed += CHECK_EVERY_SECONDS
        if self._disobeyed >= OBEY_SECONDS:
            # The kernel ends the process if the release takes too long, or if gevent's hub never runs it.
            signal.setitimer(signal.ITIMER_REAL, RELEASE_SECONDS)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            _thread.start_new_thread(_release_and_exit, ())


def _release_and_exit() -> None:
    """Give back what this process holds, and exit: no exit handler is sure to come to its end here."""
    try:
        # Not by a logger, whose lock the main thread may hold.
        print("worker: does not react to signals, and ends now", file=sys.__stderr__, flush=True)
        for child in active_children():  # prefork's, which would go on with what is given back
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        pollers = pollers_of_process()
        for poller in pollers.receiving():
            poller.stop()
        held_messages().exit(RELEASE_SECONDS / 5)
        pollers.let_stopped_give_back(RELEASE_SECONDS / 5)
    except Exception:  # noqa: BLE001 (the process ends whatever it is, and a person is to see why)
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(EX_FAILURE)
