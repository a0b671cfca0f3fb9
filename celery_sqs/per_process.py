"""Objects of which each process has one: made on first use, made again after a fork, ended when the process exits."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

_made: dict[Hashable, Any] = {}
_inherited: list[dict[Hashable, Any]] = []
_making = threading.RLock()


def _start_anew() -> None:
    """Forget in a forked child what its parent made, without ending that.

    The lock is made again because another thread of the parent may hold it, and the child would wait forever.
    """
    _inherited.append(_made.copy())
    _made.clear()
    globals().update(_making=threading.RLock())


os.register_at_fork(after_in_child=_start_anew)

_exit_functions: list[Callable[[], Any]] = []


def one_per_process(key: Hashable, make: Callable[[], T]) -> T:
    """Return the object that `make` returned when this process first asked for this key.

    A forked child does not use its parent's objects, because locks, connections and held messages cannot be shared.
    """
    if key not in _made:
        with _making:
            if key not in _made:
                _made[key] = make()
    made: T = _made[key]
    return made


def at_exit(function: Callable[[], Any]) -> None:
    """Call the function when this process exits, but not when a forked child exits.

    The function that was registered last is called first. All are also called if Celery restarts the process from its
    own exit handler.
    """
    pid = os.getpid()

    def call() -> None:
        if os.getpid() == pid:
            function()

    _exit_functions.append(call)
    atexit.register(call)


def register_again() -> None:
    """Register our exit functions again, so that they run before any function that was registered since.

    On SIGHUP, Celery registers an exit function that calls `execv`, and no function after it would run.
    """
    for function in _exit_functions:
        atexit.unregister(function)
        atexit.register(function)
