"""How long a message waits for what is not there yet."""

from __future__ import annotations

from typing import TypeGuard

from celery_sqs.sqs.dead_letters import Reason
from emails.backoff import full_jitter
from emails.sender import Later

FIRST_SECONDS = 1
# A longer wait looks at the row every quarter of an hour: somebody may have changed it.
LONGEST_SECONDS = 900


def is_past(moment: object, now: float) -> TypeGuard[float]:
    """Whether it can be the time, in epoch seconds, since when a row is missing.

    A message carries it, and whoever may send to the queue can write anything there. If a row were missing since
    tomorrow, it would be waited for until then.
    """
    return isinstance(moment, int | float) and not isinstance(moment, bool) and 0 < moment <= now


def for_row(waited: float, longest: float) -> Later | Reason:
    """What to do about an email that has no row after `waited` seconds: wait, or its dead letter's reason."""
    if waited >= longest:
        return Reason("EmailNotFound", f"no row came in {longest:g} seconds")
    return Later(min(max(waited, FIRST_SECONDS), longest - waited), "it has no row yet")


def for_store(attempt: int, why: str) -> Later:
    """Wait for DynamoDB: for as long as it lasts, and counted nowhere."""
    return Later(full_jitter(attempt, FIRST_SECONDS, LONGEST_SECONDS), why)
