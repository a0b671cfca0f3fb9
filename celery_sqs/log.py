"""Limits an error that may happen many times a second to one log line a minute."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from logging import Logger

PERIOD_SECONDS = 60


class OnceAMinute:
    """Logs the same error at most once a minute, and then says how often it happened in between.

    Two errors are the same if their message template is, even if the arguments differ.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._said_at: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def __call__(self, message: str, *arguments: object) -> None:
        now = time.monotonic()
        with self._lock:
            if now - self._said_at.get(message, float("-inf")) < PERIOD_SECONDS:
                self._unsaid[message] = self._unsaid.get(message, 0) + 1
                return
            self._said_at[message] = now
            unsaid = self._unsaid.pop(message, 0)
        self._logger.error(message, *arguments)
        if unsaid:
            self._logger.error("the same happened %d more times since it was last logged", unsaid)
