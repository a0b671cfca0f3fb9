"""Lets SQS hold messages until their ETA, so that they do not wait in a worker's memory and cannot be lost with it.

On a standard queue, the message is replaced by a delayed copy of itself. A FIFO queue does not accept a delay for a
single message. There the message stays invisible until its ETA, and keeps its place in its message group.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware

MAX_DELAY_SECONDS = 900  # SQS Developer Guide, "Amazon SQS message quotas": a message's DelaySeconds

# A message can be invisible for at most 12 hours after it was received (SQS Developer Guide, "Amazon SQS visibility
# timeout"). The hour in between is a margin.
MAX_INVISIBLE_SECONDS = 11 * 3600

# SQS counts in whole seconds from when it accepts the message, so a message may come back this much too early.
TOLERANCE_SECONDS = 1


def delay_seconds(headers: dict[str, Any]) -> int:
    """Return the DelaySeconds until the `eta` in a Celery message's headers. It is at most 900.

    If the eta is later, the message is delayed several times.
    """
    return min(max(0, math.ceil(_seconds_left(headers))), MAX_DELAY_SECONDS)


def invisible_seconds(headers: dict[str, Any]) -> int:
    """Return for how many seconds the message is to be invisible on a FIFO queue. It is at most 11 hours.

    If the eta is later, the message is received and hidden several times.
    """
    return min(max(0, math.ceil(_seconds_left(headers))), MAX_INVISIBLE_SECONDS)


def eta_in(seconds: float) -> str:
    """Return the `eta` of a message that is to wait for so many seconds."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def is_early(headers: dict[str, Any]) -> bool:
    """Whether the message's eta is still so far in the future that it must be delayed again."""
    return _seconds_left(headers) > TOLERANCE_SECONDS


def _seconds_left(headers: dict[str, Any]) -> float:
    try:
        eta = maybe_iso8601(headers.get("eta"))  # without a time zone it is in UTC, as in Celery's worker
        return (maybe_make_aware(eta) - datetime.now(UTC)).total_seconds() if eta else 0
    except (AttributeError, OverflowError, TypeError, ValueError):  # Celery's worker reports what is wrong with the eta
        return 0
