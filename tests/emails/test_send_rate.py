"""Turns limit all workers together to so many emails a second, and a worker that was delayed does not catch up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from emails import send_rate
from emails.send_rate import ROW, SendRate, reserve
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable

    from settings import Settings


class Clock:
    """A shared time to reserve from, as the store has it. It records how much each caller asked for."""

    def __init__(self, start: float) -> None:
        self.until = start
        self.asked: list[float] = []

    def reserve(self, seconds: float) -> float:
        self.asked.append(seconds)
        self.until += seconds
        return self.until - seconds


@pytest.fixture
def reserved(settings: Settings) -> Callable[[float], float]:
    """Reserve so many seconds. Return when they start."""
    return partial(reserve, client("dynamodb", settings), settings.table, ROW)


def test_reserved_stretches_follow_one_another_and_start_now_where_nobody_waits(
    reserved: Callable[[float], float],
) -> None:
    before = time.time()
    first = reserved(5)
    assert before - 0.01 <= first <= time.time() + 0.01
    assert reserved(2) == pytest.approx(first + 5, abs=0.01)
    assert reserved(1) == pytest.approx(first + 7, abs=0.01)


def test_no_two_workers_reserve_the_same_time(reserved: Callable[[float], float]) -> None:
    with ThreadPoolExecutor(8) as workers:
        starts = sorted(workers.map(lambda _: reserved(3), range(24)))
    assert all(later - earlier >= 2.99 for earlier, later in pairwise(starts))


def test_an_idle_time_is_not_saved_up(reserved: Callable[[float], float], wait_until: Callable[..., None]) -> None:
    first = reserved(0.01)
    wait_until(lambda: time.time() > first + 0.2)
    assert reserved(1) >= first + 0.2


def test_a_stretch_of_less_than_a_millisecond_takes_its_time_too(reserved: Callable[[float], float]) -> None:
    first = reserved(60)
    for _ in range(10):
        reserved(1 / 25_000)
    assert reserved(1) - first - 60 == pytest.approx(10 / 25_000, rel=0.01)


def test_turns_are_taken_one_by_one_and_as_many_reserved_as_wait() -> None:
    clock = Clock(time.time() - 0.5)
    rate = SendRate(1000, clock.reserve)
    with ThreadPoolExecutor(20) as threads:
        assert all(threads.map(lambda _: rate.wait(), range(200)))
    assert len(clock.asked) <= 200
    assert sum(clock.asked) == pytest.approx(0.2, abs=0.03)


def test_no_more_than_a_second_is_reserved_at_a_time() -> None:
    clock = Clock(time.time() - 0.5)
    rate = SendRate(3, clock.reserve)
    rate._waiting = 50
    rate._next()
    assert clock.asked == [1.0]


def test_a_turn_that_is_long_past_is_not_taken() -> None:
    clock = Clock(time.time() - 10 * send_rate.LATEST_SECONDS)
    rate = SendRate(1, clock.reserve)
    assert rate.wait()
    assert len(clock.asked) >= 9, "each of the turns that had passed was given up"


def test_who_waits_is_let_go_when_it_closes() -> None:
    rate = SendRate(1, Clock(time.time() + 3600).reserve)
    answers: list[bool] = []
    waiter = threading.Thread(target=lambda: answers.append(rate.wait()))
    waiter.start()
    rate.close()
    waiter.join(60)
    assert answers == [False]
