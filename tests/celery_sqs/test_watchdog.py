"""When a consumer counts as stalled, and what its worker does then."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

from celery_sqs.watchdog import STALLED_SECONDS, StallDetector
from tests.celery_sqs.pools import POOLS
from tests.support.proxy import Proxy, running

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.celery_sqs.conftest import Queues

each_pool = pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
TICK = 5.0


def ticks(detector: StallDetector, seconds: float, first: int = 0, **how: Any) -> list[str]:
    """Return what the detector says at each tick. The loop runs between the ticks, unless `beats` says otherwise."""
    return [
        detector.tick(TICK, **{"beats": first + number, "has_free_slot": True, "waiting": set()} | how)
        for number in range(int(seconds / TICK))
    ]


def test_a_loop_that_does_not_come_round_is_a_stall_after_the_bound_and_not_before() -> None:
    said = ticks(StallDetector(), 2 * STALLED_SECONDS, beats=7)
    stalled = [bool(text) for text in said]
    assert stalled.index(True) == STALLED_SECONDS / TICK
    assert "the consumer's loop has not run for 60 seconds" in said
    assert all(stalled[stalled.index(True) :])


def test_a_message_that_waits_beside_a_free_slot_is_a_stall_after_the_bound() -> None:
    said = ticks(StallDetector(), 2 * STALLED_SECONDS, waiting={"one"})
    assert [bool(text) for text in said].index(True) == STALLED_SECONDS / TICK
    assert "a message has waited for 60 seconds although the pool has a free slot" in said


@pytest.mark.parametrize("beats", [{}, {"beats": 7}], ids=["loop comes round", "loop is blocked by the pool"])
def test_a_full_pool_is_never_a_stall(beats: dict[str, int]) -> None:
    assert set(ticks(StallDetector(), 10 * STALLED_SECONDS, has_free_slot=False, waiting={"one"}, **beats)) == {""}


def test_an_idle_worker_is_healthy() -> None:
    assert set(ticks(StallDetector(), 10 * STALLED_SECONDS)) == {""}


def test_messages_that_wait_for_a_moment_each_are_no_stall() -> None:
    detector = StallDetector()
    for number in range(100):
        assert ticks(detector, STALLED_SECONDS / 2, first=100 * number, waiting={f"message {number}"}) == [""] * 6


def test_a_slot_that_was_taken_in_between_begins_the_wait_anew() -> None:
    detector = StallDetector()
    for number in range(10):
        assert set(ticks(detector, STALLED_SECONDS - TICK, first=100 * number, waiting={"one"})) == {""}
        assert ticks(detector, TICK, first=100 * number + 50, has_free_slot=False, waiting={"one"}) == [""]


def test_a_stall_ends_when_the_loop_comes_round() -> None:
    detector = StallDetector()
    assert ticks(detector, 2 * STALLED_SECONDS, beats=7)[-1]
    assert ticks(detector, TICK, first=8) == [""]


def test_a_process_that_stood_still_as_a_whole_is_not_stalled() -> None:
    detector = StallDetector()
    ticks(detector, TICK, beats=7)
    assert not detector.tick(10 * STALLED_SECONDS, beats=7, has_free_slot=True, waiting={"one"})


def is_stalled(queues: Queues) -> str:
    try:
        return str(json.loads((queues.folder / "liveness").read_text())["stalled"])
    except OSError:
        return ""


def start_worker(
    queues: Queues, pool: tuple[str, ...], seconds: int = 2, **environment: str
) -> subprocess.Popen[bytes]:
    return queues.start(
        *pool,
        "--prefetch-multiplier",
        "20",
        STALLED_SECONDS=str(seconds),
        LIVENESS_FILE=str(queues.folder / "liveness"),
        STALL_LOOP=str(queues.folder / "stall"),
        **environment,
    )


@pytest.mark.slow
@each_pool
def test_a_stalled_worker_says_so_gives_its_unbegun_messages_back_and_never_starts_them(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    stall, done = queues.folder / "stall", queues.folder / "done"
    start_worker(queues, pool)
    wait_until(lambda: "ready." in queues.log())
    queues.send("hold", "busy", str(done))
    wait_until(lambda: queues.lines()["start busy"])
    stall.touch()
    wait_until(lambda: queues.lines()["stalled"])
    for number in range(10):
        queues.send("note", f"n{number}")
    wait_until(lambda: is_stalled(queues), what="the liveness file says so")
    wait_until(lambda: queues.counts() == (10, 1, 0), what="all but what has begun can be received by others")
    taken = queues.sqs.receive_message(QueueUrl=queues.url("tasks"), MaxNumberOfMessages=3, VisibilityTimeout=600)
    assert len(taken["Messages"]) == 3
    done.touch()
    stall.unlink()
    wait_until(lambda: not is_stalled(queues))
    wait_until(lambda: queues.counts() == (0, 3, 0), what="the worker works again, on what others have not taken")
    assert sum(queues.lines()[f"n{number}"] for number in range(10)) == 7
    assert max(queues.lines()[f"n{number}"] for number in range(10)) == 1
    for number in range(100):  # the prefetch still has room for all of them, so none of it was lost
        queues.send("note", f"after {number}")
    wait_until(lambda: sum(queues.lines()[f"after {number}"] for number in range(100)) == 100)


@pytest.mark.slow
@each_pool
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["second SIGTERM", "SIGQUIT"])
def test_a_signal_ends_a_stalled_worker_which_gives_back_what_it_holds(
    queues: Queues, pool: tuple[str, ...], number: signal.Signals, wait_until: Callable[..., None]
) -> None:
    # The proxy keeps a long poll open after its client has exited, as SQS does.
    with running(Proxy(queues.endpoint, lambda *_: "")) as proxy:
        worker = start_worker(queues, pool, VISIBILITY_TIMEOUT="600", BROKER_URL=queues.broker_url(proxy.url))
        wait_until(lambda: "ready." in queues.log())
        queues.send("nap", "busy", 600)
        wait_until(lambda: queues.lines()["start busy"])
        (queues.folder / "stall").touch()
        wait_until(lambda: is_stalled(queues))
        if number == signal.SIGTERM:
            worker.send_signal(number)
            wait_until(lambda: "Warm shutdown" in queues.log())
        worker.send_signal(number)
        assert worker.wait(30) == 1
        wait_until(lambda: queues.counts() == (1, 0, 0), what="it is received again before its time-out")


@pytest.mark.slow
@each_pool
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=["second SIGTERM", "SIGQUIT"])
def test_a_signal_ends_a_worker_whose_remote_command_never_ends(
    queues: Queues, pool: tuple[str, ...], number: signal.Signals, wait_until: Callable[..., None]
) -> None:
    worker = start_worker(queues, pool, seconds=600)
    wait_until(lambda: queues.app.control.ping(timeout=1))  # on gevent the command queue may be created after "ready."
    queues.app.control.broadcast("stall", arguments={"until": str(queues.folder / "never")})
    wait_until(lambda: queues.lines()["stalled"])
    wait_until(lambda: worker.poll() is not None or worker.send_signal(number))


@pytest.mark.slow
@each_pool
def test_tasks_longer_than_the_bound_are_no_stall_and_run_once(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    start_worker(queues, pool)
    for number in range(8):
        queues.send("nap", f"n{number}", 6)
    seen: set[str] = set()
    wait_until(lambda: seen.add(is_stalled(queues)) or sum(line.startswith("end") for line in queues.lines()) == 8)
    assert seen == {""}
    assert set(queues.lines().values()) == {1}
    assert "stalled:" not in queues.log()


@pytest.mark.slow
@each_pool
def test_what_an_eta_a_rate_limit_or_a_cancelled_consumer_holds_back_is_no_stall(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    start_worker(queues, pool)
    wait_until(lambda: queues.app.control.inspect(timeout=5).ping())
    queues.send("again", "retried", 6.0)
    for number in range(3):
        queues.send("seldom", f"seldom {number}")
    queues.send("note", "in six seconds", countdown=6)
    queues.app.control.broadcast("cancel_consumer", arguments={"queue": "raw"})
    seen: set[str] = set()
    wanted = {"retried 0", "retried 1", "seldom 0", "seldom 1", "seldom 2", "in six seconds"}
    wait_until(lambda: seen.add(is_stalled(queues)) or wanted <= queues.lines().keys())
    assert seen == {""}
    assert "stalled:" not in queues.log()
    assert set(queues.lines().values()) == {1}
