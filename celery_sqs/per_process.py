"""What a process has one of: made when it is first asked for, made anew after a fork, ended when the process exits."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

_made: dict[tuple[int, Hashable], Any] = {}
_making = threading.RLock()
# A process that is forked while another thread makes something would wait for that thread for ever.
os.register_at_fork(after_in_child=lambda: globals().update(_making=threading.RLock()))

_exit_functions: list[Callable[[], Any]] = []


def one_per_process(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` returned when this process first asked for this key.

    A fork does not share what its parent made: neither locks nor connections nor messages.
    """
    mine = (os.getpid(), key)
    if mine not in _made:
        with _making:
            if mine not in _made:
                _made[mine] = make()
    made: T = _made[mine]
    return made


def at_exit(function: Callable[[], Any]) -> None:
    """Call the function when this process exits, but not when a fork of it does.

    What was registered last is called first. It is called also if Celery restarts the process in its own exit handler.
    """
    pid = os.getpid()

    def call() -> None:
        if os.getpid() == pid:
            function()

    _exit_functions.append(call)
    atexit.register(call)


def register_again() -> None:
    """Come before what was registered since: on SIGHUP Celery registers an `execv`, after which nothing is called."""
    for function in _exit_functions:
        atexit.unregister(function)
        atexit.register(function)
