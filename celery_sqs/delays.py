"""Delays that SQS holds, so that no ETA waits in a worker's memory, and none is lost with it.

On a standard queue a message waits as a delayed copy of itself. A FIFO queue refuses the delay of a single message:
there the message itself waits, invisible, and keeps its place in its message group.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from celery.utils.time import maybe_iso8601, maybe_make_aware

MAX_DELAY_SECONDS = 900  # SQS Developer Guide, "Amazon SQS message quotas": a message's DelaySeconds

# A message may be invisible for 12 hours from its receive on, and it was received a moment ago (SQS Developer Guide,
# "Amazon SQS visibility timeout").
MAX_INVISIBLE_SECONDS = 11 * 3600

# SQS counts in whole seconds from when it takes the message, so a message may come back this much too early.
TOLERANCE_SECONDS = 1


def delay_seconds(headers: dict[str, Any]) -> int:
    """The DelaySeconds for a Celery message with these headers, from its `eta`; a longer delay takes several hops."""
    return min(max(0, math.ceil(_seconds_left(headers))), MAX_DELAY_SECONDS)


def invisible_seconds(headers: dict[str, Any]) -> int:
    """How long the message is to be invisible on a FIFO queue; a longer wait takes several receives."""
    return min(max(0, math.ceil(_seconds_left(headers))), MAX_INVISIBLE_SECONDS)


def eta_in(seconds: float) -> str:
    """The `eta` for a message that is to wait for so long."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def is_early(headers: dict[str, Any]) -> bool:
    """Whether the message is to wait for another hop."""
    return _seconds_left(headers) > TOLERANCE_SECONDS


def _seconds_left(headers: dict[str, Any]) -> float:
    try:
        eta = maybe_iso8601(headers.get("eta"))  # one without a zone is in UTC, as for Celery's worker
        return (maybe_make_aware(eta) - datetime.now(UTC)).total_seconds() if eta else 0
    except (AttributeError, OverflowError, TypeError, ValueError):  # Celery's worker says what is wrong with it
        return 0
