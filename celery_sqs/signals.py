"""Keeps Celery's signal handlers out of code that holds locks.

A handler runs in the main thread, in the middle of whatever that does. Celery's for SIGQUIT cancels consumers and waits
for the pool, whose threads settle messages: where the main thread was interrupted while it held one of our locks, all
of them would wait for ever.
"""

from __future__ import annotations

import signal
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
    """Of one thread, or of one greenlet."""

    def __init__(self) -> None:
        self.depth = 0
        self.deferred: list[Callable[[], Any]] = []


_section = _Section()


def uninterrupted(function: Callable[P, R]) -> Callable[P, R]:
    """Let a signal that comes while the function runs be handled when it is done."""

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
    """The signal handler, made to wait for what is not to be interrupted."""

    def handle(*args: Any) -> None:
        if _section.depth:
            _section.deferred.append(partial(handler, *args))
        else:
            handler(*args)

    return handle


class StopSignals:
    """Celery's handlers of the signals that stop a worker, each of which waits for what is not to be interrupted.

    A worker that a signal cannot stop ends all the same (ForcedExit).
    """

    def __init__(self, forced_exit: ForcedExit) -> None:
        self._forced_exit = forced_exit
        self._ours: dict[int, Callable[..., Any]] = {}

    def install(self) -> None:
        """Wrap the handlers that are installed now. Celery's replace each other when they run."""
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

        def handle(number: int, frame: Any) -> None:
            self._forced_exit.signalled(number)
            deferred_run(number, frame)
            self.install()

        return handle


def defer_stop_signals(consumer: Any) -> None:
    """Wrap the signal handlers of the consumer's worker."""
    if threading.current_thread() is not threading.main_thread():  # Celery has installed no handlers there
        return

    def is_stalled() -> bool:
        connection = consumer.connection
        return bool(connection and connection.transport.consumer_loop.stalled)

    StopSignals(ForcedExit(lambda: consumer.controller.blueprint.state == RUN, is_stalled)).install()
