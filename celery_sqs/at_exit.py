"""What this package does when the process exits, also if Celery restarts the process in its own exit handler."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_functions: list[Callable[[], Any]] = []


def at_exit(function: Callable[[], Any]) -> None:
    """Call the function at exit; what was registered last is called first."""
    _functions.append(function)
    atexit.register(function)


def register_again() -> None:
    """Come before what was registered since: on SIGHUP Celery registers an `execv`, after which nothing is called."""
    for function in _functions:
        atexit.unregister(function)
        atexit.register(function)
