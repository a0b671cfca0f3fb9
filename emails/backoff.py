"""How long to wait before another try."""

from __future__ import annotations

import random


def full_jitter(attempt: int, first: float, longest: float) -> float:
    """Exponential backoff with full jitter, in seconds, for the try after `attempt` (1, 2, …).

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
    """
    # 2 ** 60 is past any longest delay, and a float. Below 1 are only counts that a message made up.
    exponent = max(0, min(attempt - 1, 60))
    return random.uniform(0, min(longest, first * 2**exponent))  # noqa: S311 (spreads load, no secret)
