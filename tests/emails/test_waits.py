from __future__ import annotations

import math

import pytest

from celery_sqs.sqs.dead_letters import Reason
from emails import waits
from emails.sender import Later


@pytest.mark.parametrize(("waited", "seconds"), [(0, 1), (1, 1), (20, 20), (40, 20), (59.5, 0.5)])
def test_a_row_is_waited_for_twice_as_long_each_time_and_no_longer_than_allowed(waited: float, seconds: float) -> None:
    assert waits.for_row(waited, longest=60) == Later(seconds, "it has no row yet")


def test_a_row_that_did_not_come_is_a_dead_letters_reason() -> None:
    assert waits.for_row(60, longest=60) == Reason("EmailNotFound", "no row came in 60 seconds")


NOW = 1_700_000_000.0


@pytest.mark.parametrize("moment", [NOW, NOW - 1, int(NOW), 0.5])
def test_a_row_may_be_missing_since_any_time_until_now(moment: object) -> None:
    assert waits.is_past(moment, NOW)


@pytest.mark.parametrize(
    "moment",
    [NOW + 1, 10**400, math.inf, -math.inf, math.nan, 0, -1, -(10**400), True, "1700000000", None, [], {}],
    ids=str,
)
def test_a_row_cannot_be_missing_since_tomorrow_nor_since_what_is_no_time(moment: object) -> None:
    assert not waits.is_past(moment, NOW)


def test_dynamodb_is_waited_for_at_most_a_quarter_of_an_hour_at_a_time() -> None:
    delays = [waits.for_store(attempt=1000, why="away").seconds for _ in range(100)]
    assert 450 < max(delays) <= 900
