from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from celery.utils.time import maybe_make_aware

from celery_sqs.delays import (
    MAX_DELAY_SECONDS,
    MAX_INVISIBLE_SECONDS,
    delay_seconds,
    eta_in,
    invisible_seconds,
    is_early,
)


def eta(seconds: float) -> dict[str, object]:
    return {"eta": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()}


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({}, 0),
        ({"eta": None}, 0),
        (eta(-100), 0),
        (eta(100_000), MAX_DELAY_SECONDS),
        ({"eta": "soon"}, 0),
        ({"eta": 7}, 0),
    ],
    ids=["no eta", "eta None", "past", "longer than SQS takes", "no time", "wrong type"],
)
def test_the_delay_is_the_time_to_the_eta(headers: dict[str, object], delay: int) -> None:
    assert delay_seconds(headers) == delay


def test_a_delay_is_rounded_up_so_that_no_copy_comes_early() -> None:
    assert delay_seconds(eta(59.5)) == 60


@pytest.mark.usefixtures("_far_from_utc")
def test_an_eta_is_in_utc_and_says_so_wherever_the_worker_is() -> None:
    assert eta_in(60).endswith("+00:00")
    assert 59 <= delay_seconds({"eta": eta_in(60)}) <= 60


def test_on_a_fifo_queue_a_message_is_invisible_until_its_eta_or_for_as_long_as_sqs_allows() -> None:
    assert invisible_seconds({"eta": eta_in(2000)}) == 2000
    assert invisible_seconds({"eta": eta_in(90_000)}) == MAX_INVISIBLE_SECONDS
    assert invisible_seconds({"eta": eta_in(-5)}) == 0


def test_a_naive_eta_is_utc_as_celerys_worker_reads_it() -> None:
    naive = datetime.now(UTC).replace(tzinfo=None)
    assert 0 < delay_seconds({"eta": (naive + timedelta(seconds=8)).isoformat()}) <= 8
    assert is_early({"eta": (naive + timedelta(seconds=8)).isoformat()})
    assert not is_early({"eta": (naive - timedelta(seconds=8)).isoformat()})
    aware = maybe_make_aware(naive)
    assert aware
    assert aware.utcoffset() == timedelta(0)


@pytest.mark.parametrize(("seconds", "early"), [(1000, True), (2, True), (0.5, False), (-1, False)])
def test_a_message_waits_for_another_hop_until_its_eta(seconds: float, early: bool) -> None:
    assert is_early(eta(seconds)) is early
