from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emails.backoff import full_jitter


@pytest.mark.parametrize(
    ("attempt", "longest_of_this_step"), [(1, 5), (2, 10), (3, 20), (8, 640), (9, 900), (10**6, 900)]
)
def test_each_step_is_twice_as_long_up_to_the_longest(
    monkeypatch: pytest.MonkeyPatch, attempt: int, longest_of_this_step: float
) -> None:
    ranges: list[tuple[float, float]] = []
    monkeypatch.setattr(random, "uniform", lambda *ends: ranges.append(ends))
    full_jitter(attempt, first=5, longest=900)
    assert ranges == [(0, longest_of_this_step)], "full jitter starts at 0"


@given(st.integers(1, 10**9), st.floats(0.001, 900), st.floats(0.001, 86_400))
def test_no_delay_is_below_0_or_above_the_longest(attempt: int, first: float, longest: float) -> None:
    assert 0 <= full_jitter(attempt, first, longest) <= longest


def test_two_delays_of_the_same_attempt_differ() -> None:
    assert len({full_jitter(8, 5, 900) for _ in range(100)}) > 90


@pytest.mark.parametrize("attempt", [0, -1, -(10**400)], ids=["0", "-1", "huge"])
def test_a_count_below_one_waits_as_long_as_the_first(attempt: int) -> None:
    assert max(full_jitter(attempt, first=10, longest=60) for _ in range(100)) > 5
