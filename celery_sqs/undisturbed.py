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

from celery.signals import worker_ready

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


def undisturbed(function: Callable[P, R]) -> Callable[P, R]:
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


def patient(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The signal handler, made to wait for what is not to be disturbed."""

    def handle(*args: Any) -> None:
        if _section.depth:
            _section.deferred.append(partial(handler, *args))
        else:
            handler(*args)

    return handle


@worker_ready.connect
def make_handlers_patient(**_: Any) -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if callable(handler):
            signal.signal(number, patient(handler))
