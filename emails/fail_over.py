"""Chooses the provider of an attempt among those of EMAIL_PROVIDER, and remembers which of them keep failing."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from emails.email import Email

logger = logging.getLogger(__name__)

FAILURES = 5  # in a row, after which a provider is tried last
REST_SECONDS = 60.0


def choose(email: Email, names: Sequence[str], failing: Collection[str]) -> str:
    """Return the provider of the email's next attempt.

    A row's SendVia goes first. Otherwise it is the first of `names` among those that were tried least, so that each is
    tried once in every round. Within a round, those in `failing` come last.
    """
    if email.send_via:
        return email.send_via
    return min(names, key=lambda name: (email.providers_tried.get(name, 0), name in failing))


class Failures:
    """The providers that keep failing, as this process sees them. Thread-safe."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()
        self._rests_until: dict[str, float] = {}
        self._asked_to_wait_until: dict[str, float] = {}
        self._lock = threading.Lock()

    def failing(self) -> frozenset[str]:
        """Return the providers to try last now."""
        now = time.monotonic()
        with self._lock:
            untils = *self._rests_until.items(), *self._asked_to_wait_until.items()
            return frozenset(name for name, until in untils if now < until)

    def failed(self, name: str, retry_after: float = 0.0) -> None:
        """Count a failure. A provider that asked for `retry_after` seconds is tried last for that time.

        After a rest, one more failure is enough to try the provider last again.
        """
        now = time.monotonic()
        with self._lock:
            self._in_a_row[name] += 1
            in_a_row, waits_until = self._in_a_row[name], self._asked_to_wait_until.get(name, 0)
            self._asked_to_wait_until[name] = waits_until = max(waits_until, now + retry_after)
            rests_until = now + REST_SECONDS
            if in_a_row < FAILURES or now < self._rests_until.get(name, 0) or rests_until <= waits_until:
                return
            self._rests_until[name] = rests_until
        logger.warning("%s failed %d times in a row; it is tried last for %g s", name, in_a_row, REST_SECONDS)

    def answered(self, name: str) -> None:
        """Forget the provider's failures, because it accepted an email or refused one permanently."""
        with self._lock:
            self._in_a_row.pop(name, None)
            self._rests_until.pop(name, None)
            self._asked_to_wait_until.pop(name, None)
