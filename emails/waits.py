"""How long a message waits for what is not there yet."""

from __future__ import annotations

from celery_sqs import Reason
from emails.backoff import full_jitter
from emails.delivery import Later

FIRST_SECONDS = 1
# A longer wait looks at the row every quarter of an hour: somebody may have changed it.
LONGEST_SECONDS = 900


def for_row(waited: float, longest: float) -> Later | Reason:
    """What to do about an email that has no row after `waited` seconds: wait, or its dead letter's reason."""
    if waited >= longest:
        return Reason("EmailNotFound", f"no row came in {longest:g} seconds")
    return Later(min(max(waited, FIRST_SECONDS), longest - waited), "it has no row yet")


def for_store(attempt: int, why: str) -> Later:
    """Wait for DynamoDB: for as long as it lasts, and counted nowhere."""
    return Later(full_jitter(attempt, FIRST_SECONDS, LONGEST_SECONDS), why)
