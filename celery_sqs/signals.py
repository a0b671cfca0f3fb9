"""Keeps Celery's signal handlers from interrupting code that holds locks.

A handler runs in the main thread, in the middle of whatever that thread does. Celery's handler for SIGQUIT cancels
consumers and waits for the pool, and the pool's threads settle messages. If the handler interrupted the main thread
while that held one of our locks, all of these threads would wait forever.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from celery.bootsteps import RUN

from celery_sqs.forced_exit import ForcedExit
from celery_sqs.per_process import register_again

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")


class _Section(threading.local):
    """The state of one thread or greenlet: how many uninterrupted functions it is in, and which handlers wait."""

    def __init__(self) -> None:
        self.depth = 0
        self.deferred: list[Callable[[], Any]] = []


_section = _Section()


def uninterrupted(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that signals which arrive while it runs are handled after it has returned."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        _section.depth += 1
        try:
            return function(*args, **kwargs)
        finally:
            _section.depth -= 1
            while _section.deferred and not _section.depth:
                _section.deferred.pop(0)()

    return call


def deferred(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a signal handler that waits until no uninterrupted function is running, and then calls `handler`."""

    def handle(*args: Any) -> None:
        if _section.depth:
            _section.deferred.append(partial(handler, *args))
        else:
            handler(*args)

    return handle


class StopSignals:
    """Wraps Celery's handlers for the signals that stop a worker, so that they wait for uninterrupted functions.

    ForcedExit ends a worker that does not stop after these signals.
    """

    def __init__(self, forced_exit: ForcedExit) -> None:
        self._forced_exit = forced_exit
        self._ours: dict[int, Callable[..., Any]] = {}

    def install(self) -> None:
        """Wrap the handlers that are installed now. Celery's handlers install others, so it is called again then."""
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler) and handler is not self._ours.get(number):
                wrap = self._wrap_restart if number == signal.SIGHUP else self._wrap
                self._ours[number] = wrap(handler)
                signal.signal(number, self._ours[number])

    @staticmethod
    def _wrap_restart(handler: Callable[..., Any]) -> Callable[..., Any]:
        def handle(*args: Any) -> None:
            handler(*args)
            register_again()

        return deferred(handle)

    def _wrap(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> None:
            with self._forced_exit.handling():
                handler(*args)

        deferred_run = deferred(run)

        def run_and_install(*args: Any) -> None:
            deferred_run(*args)
            self.install()

        def handle(*args: Any) -> None:
            self._forced_exit.signalled(args[0])
            if _is_in_hub():
                _thread.start_new_thread(run_and_install, args)
            else:
                run_and_install(*args)

        return handle


def _is_in_hub() -> bool:
    """Return whether gevent runs this signal handler in its hub.

    Celery's handler for SIGQUIT waits for the pool. In the hub that raises BlockingSwitchOutError, which ends whatever
    the main greenlet does. gevent's threads are greenlets, and may wait.
    """
    gevent = sys.modules.get("gevent.hub")  # imported only if gevent is used
    return gevent is not None and isinstance(gevent.getcurrent(), gevent.Hub)


def defer_stop_signals(consumer: Any) -> None:
    """Wrap the signal handlers of the consumer's worker."""
    if threading.current_thread() is not threading.main_thread():  # Celery has installed no handlers there
        return

    def is_stalled() -> bool:
        connection = consumer.connection
        return bool(connection and connection.transport.consumer_loop.stalled)

    StopSignals(ForcedExit(lambda: consumer.controller.blueprint.state == RUN, is_stalled)).install()
