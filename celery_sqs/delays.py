"""Delays that SQS holds, so that no ETA waits in a worker's memory, and none is lost with it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

MAX_DELAY_SECONDS = 900  # SQS Developer Guide, "Amazon SQS message quotas": a message's DelaySeconds

# SQS counts in whole seconds from when it takes the message, so a message may come back this much too early.
TOLERANCE_SECONDS = 1


def delay_seconds(headers: dict[str, Any]) -> int:
    """The DelaySeconds for a Celery message with these headers, from its `eta`; a longer delay takes several hops."""
    return min(max(0, math.ceil(_seconds_left(headers))), MAX_DELAY_SECONDS)


def is_early(headers: dict[str, Any]) -> bool:
    """Whether the message is to wait for another hop."""
    return _seconds_left(headers) > TOLERANCE_SECONDS


def _seconds_left(headers: dict[str, Any]) -> float:
    try:
        eta = datetime.fromisoformat(headers.get("eta") or "")
    except (TypeError, ValueError):
        return 0
    if eta.tzinfo is None:
        # Only the app knows the time zone of a naive one (enable_utc=False): Celery's worker waits for it.
        return 0
    return (eta - datetime.now(UTC)).total_seconds()
