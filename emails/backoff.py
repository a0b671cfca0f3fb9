"""How long to wait before the next attempt."""

from __future__ import annotations

import random


def full_jitter(attempt: int, first: float, longest: float) -> float:
    """Return how many seconds to wait after `attempt` (1, 2, …): exponential backoff with full jitter.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter".
    """
    # 2 ** 60 exceeds every longest delay and still fits a float. An attempt below 1 comes only from a forged message.
    exponent = max(0, min(attempt - 1, 60))
    return random.uniform(0, min(longest, first * 2**exponent))  # noqa: S311 (it spreads load and protects no secret)
