"""Ends a worker that no longer reacts to signals because its main thread is stuck.

The first SIGTERM asks a worker to stop, and the worker stops when its consumer's loop runs next. If the loop does not
run any more, a second SIGTERM (or SIGINT) or a SIGQUIT ends the process. A worker that is already stopping is not
interrupted.
"""

from __future__ import annotations

import _thread
import atexit
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

# The longest time that a healthy worker's loop may take to notice that it should stop.
OBEY_SECONDS = 2.0
CHECK_EVERY_SECONDS = 0.25
RELEASE_SECONDS = 5


class ForcedExit:
    """Checks, after a signal has asked for it, whether the worker stops, and ends the process if it does not.

    `is_running` returns true until the worker begins to stop. `is_stalled` returns whether its consumer is stalled.
    Everything except giving back the messages happens in signal handlers, which Python runs even if the main thread is
    busy.
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
            # Python removes its signal handlers when it ends, and the timer's signal would then kill the process.
            atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
        self._seen.add(number)

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Mark that Celery's handler is running. The one for SIGQUIT waits for the tasks in a pool of threads."""
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
            # If giving back the messages takes too long, or gevent's hub never runs that thread, the kernel ends the
            # process.
            signal.setitimer(signal.ITIMER_REAL, RELEASE_SECONDS)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            _thread.start_new_thread(_release_and_exit, ())


def _release_and_exit() -> None:
    """Give back the messages that this process holds, and exit without exit handlers, which might never return."""
    try:
        # A logger is not used, because the main thread may hold its lock.
        print("worker: the main thread does not react to signals; exiting now", file=sys.__stderr__, flush=True)
        for child in active_children():  # prefork's processes, which would otherwise continue with the given-back tasks
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        pollers = pollers_of_process()
        for poller in pollers.receiving():
            poller.stop()
        held_messages().exit(RELEASE_SECONDS / 5)
        pollers.let_stopped_give_back(RELEASE_SECONDS / 5)
    except Exception:  # noqa: BLE001 (the process exits anyway, and a person should see what failed)
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(EX_FAILURE)
