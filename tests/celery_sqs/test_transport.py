"""The transport in real workers of an app that has nothing to do with email, on the emulator."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from celery_sqs.transport import DelayRefused, MessageTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.celery_sqs.conftest import Queues

WaitUntil = "Callable[..., None]"

POOLS = {
    "threads": ("-P", "threads", "-c", "4"),
    "gevent": ("-P", "gevent", "-c", "4"),
    "prefork": ("-P", "prefork", "-c", "2"),
}
each_pool = pytest.mark.parametrize(
    "pool",
    [POOLS["threads"], *(pytest.param(POOLS[name], marks=pytest.mark.slow) for name in ("gevent", "prefork"))],
    ids=POOLS,
)
threads = POOLS["threads"]


@each_pool
def test_every_task_runs_once_and_every_queue_is_empty_after(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    queues.send("tree", "root", 3, 4)
    queues.start(*pool)
    wait_until(lambda: len(queues.lines()) == 1 + 3 + 12)
    queues.stop()
    assert set(queues.lines().values()) == {1}
    assert queues.counts() == (0, 0, 0)
    assert queues.dead_letters() == []


@each_pool
def test_on_sigterm_what_runs_finishes_and_the_rest_is_visible_again_at_once(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    for number in range(20):
        queues.send("nap", f"n{number}", 6)
    worker = queues.start(*pool)
    wait_until(lambda: queues.counts()[1] > len(queues.lines()) > 0, what="some run, some wait in the prefetch")
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: queues.counts()[1] <= len(queues.lines()))
    running = queues.lines()
    assert not any(line.startswith("end") for line in running), "the rest came back while the first still ran"
    assert worker.wait(60) == 0
    lines = queues.lines()
    started = [line.split()[1] for line in lines if line.startswith("start")]
    assert lines == {line: 1 for name in started for line in (f"start {name}", f"end {name}")}
    assert queues.counts() == (20 - len(started), 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("pool", [POOLS["prefork"]], ids=["prefork"])
def test_on_sigquit_what_runs_is_visible_again_at_once(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    for number in range(6):
        queues.send("nap", f"n{number}", 60)
    worker = queues.start(*pool)
    wait_until(lambda: len(queues.lines()) == 2)
    worker.send_signal(signal.SIGQUIT)
    worker.wait(60)
    assert queues.counts() == (6, 0, 0)


def test_on_sigquit_threads_finish_what_they_run_and_the_rest_is_visible_at_once(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    done = queues.folder / "done"
    for number in range(8):
        queues.send("hold", f"h{number}", str(done))
    worker = queues.start(*threads)
    wait_until(lambda: len(queues.lines()) == 4)
    worker.send_signal(signal.SIGQUIT)
    wait_until(lambda: queues.counts() == (4, 4, 0))
    done.touch()
    worker.wait(60)
    assert queues.lines() == {f"{word} h{number}": 1 for word in ("start", "end") for number in range(4)}
    assert queues.counts() == (4, 0, 0)
    assert "NotImplementedError" not in queues.log()


@each_pool
def test_a_message_stays_invisible_for_as_long_as_it_is_held(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    for number in range(5):
        queues.send("nap", f"n{number}", 5)
    queues.start(*pool, "--prefetch-multiplier", "10", VISIBILITY_TIMEOUT="3")
    wait_until(lambda: sum(line.startswith("end") for line in queues.lines()) == 5)
    queues.stop()
    assert set(queues.lines().values()) == {1}
    assert queues.counts() == (0, 0, 0)


def test_a_reject_takes_its_reason_to_the_dead_letters(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("refuse")
    queues.send("boom")
    queues.send("oversize")
    queues.start(*threads)
    letters: list[dict[str, str]] = []
    wait_until(lambda: letters.extend(queues.dead_letters()) or len(letters) == 3)
    reasons = {letter["Reason"]: letter["Detail"] for letter in letters}
    assert reasons.keys() == {"NotWanted", "ValueError", "MessageTooLarge"}
    assert reasons["NotWanted"] == "this task refuses everything"
    assert "private content" not in reasons["ValueError"]
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_without_a_dead_letter_queue_a_reject_deletes_and_says_what(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    queues.sqs.set_queue_attributes(QueueUrl=queues.url("tasks"), Attributes={"RedrivePolicy": ""})
    queues.send("refuse")
    queues.start(*threads)
    wait_until(lambda: "which has no dead-letter queue: NotWanted (this task refuses everything)" in queues.log())
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_a_raw_body_becomes_the_argument_of_its_queues_task(queues: Queues, wait_until: Callable[..., None]) -> None:
    for body in ("hello", '{"task": "boom", "id": "x"}', '[["x"], {}, {}]'):
        queues.sqs.send_message(QueueUrl=queues.url("raw"), MessageBody=body)
    queues.start(*threads)
    wait_until(lambda: queues.lines().keys() == {"hello", '{"task": "boom", "id": "x"}', '[["x"], {}, {}]'})
    wait_until(lambda: queues.counts("raw") == (0, 0, 0))


def test_a_retry_waits_in_sqs_and_not_in_the_worker(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("again", "a", 3)
    queues.start(*threads)
    wait_until(lambda: queues.counts() == (0, 0, 1), what="one message, delayed")
    assert queues.lines() == {"a 0": 1}
    wait_until(lambda: queues.lines() == {"a 0": 1, "a 1": 1})


def test_a_countdown_longer_than_sqs_takes_hops(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.start(*threads, MAX_DELAY_SECONDS="1")
    queues.send("again", "a", 4)
    wait_until(lambda: queues.lines() == {"a 0": 1, "a 1": 1})
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_a_task_that_is_acknowledged_early_never_runs_twice(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("early", "e", 60)
    worker = queues.start(*threads, VISIBILITY_TIMEOUT="2")
    wait_until(lambda: queues.lines() == {"start e": 1})
    assert queues.counts() == (0, 0, 0), "it was deleted before it ran"
    worker.kill()


@pytest.mark.parametrize(
    "pool",
    [POOLS["threads"], pytest.param(POOLS["prefork"], marks=pytest.mark.slow)],
    ids=["threads", "prefork"],
)
def test_after_a_lost_connection_it_polls_again(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    """Stock kombu does not: `hub.reset()` clears the event loop, and the new channel has none."""
    flag = queues.folder / "lost"
    queues.start(*pool, LOSE_CONNECTION=str(flag))
    wait_until(flag.exists)
    wait_until(lambda: queues.log().count("Connected to") == 2)
    queues.send("note", "after")
    wait_until(lambda: queues.lines() == {"after": 1})


def test_a_queue_that_is_deleted_and_made_anew_is_polled_again(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.start(*threads, WAIT_TIME_SECONDS="1")
    queues.send("note", "before")
    wait_until(lambda: queues.lines() == {"before": 1})
    queues.sqs.delete_queue(QueueUrl=queues.url("tasks"))
    wait_until(lambda: "cannot receive from tasks" in queues.log())
    queues.create_queue("tasks")
    queues.send("note", "after")
    wait_until(lambda: queues.lines().keys() == {"before", "after"})
    assert queues.log().count("cannot receive from tasks") == 1, "it is said once a minute"


def test_a_publish_outside_of_a_task_is_confirmed_when_it_returns(queues: Queues) -> None:
    for number in range(3):
        queues.send("note", f"{number}")
        assert queues.counts() == (number + 1, 0, 0)


def test_a_message_that_is_too_large_is_refused_with_both_sizes(queues: Queues) -> None:
    with pytest.raises(MessageTooLarge, match=r"has [12]\d{6,} bytes .* takes 1048576"):
        queues.send("note", "x" * 1_048_576)
    assert queues.counts() == (0, 0, 0)


def test_a_fifo_queue_refuses_a_delay_instead_of_sending_early(queues: Queues) -> None:
    url = queues.create_queue("line.fifo", FifoQueue="true")
    with pytest.raises(DelayRefused, match="FIFO"):
        queues.send("note", "x", queue="line.fifo", countdown=60)
    queues.send("note", "y", queue="line.fifo")
    names = ["ApproximateNumberOfMessages"]
    assert queues.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"] == {names[0]: "1"}


def test_the_probe_says_whether_the_worker_receives(queues: Queues, wait_until: Callable[..., None]) -> None:
    file = queues.folder / "alive"
    probe = [sys.executable, "-m", "celery_sqs.liveness", str(file)]
    assert subprocess.run(probe, check=False, capture_output=True).returncode == 1
    worker = queues.start(*threads, LIVENESS_FILE=str(file))
    wait_until(lambda: subprocess.run(probe, check=False, capture_output=True).stdout == b"alive\n")
    worker.kill()
    worker.wait()
    stale = subprocess.run([*probe, "--max-age", "0"], check=False, capture_output=True, text=True)
    assert stale.returncode == 1
    assert "seconds ago" in stale.stdout


def test_a_message_is_got_and_settled_outside_of_a_consumer(queues: Queues, wait_until: Callable[..., None]) -> None:
    for text in ("a", "b"):
        queues.sqs.send_message(QueueUrl=queues.url("raw"), MessageBody=text)
    options = {"raw_queues": {"raw": "note"}, "wait_time_seconds": 1, "visibility_timeout": 60}
    with queues.app.connection_for_read() as connection:
        connection.transport_options |= options
        channel = connection.channel()
        message = channel.basic_get("raw")
        assert message.headers["task"] == "note"
        assert queues.counts("raw") == (1, 1, 0)
        message.ack()
        assert channel.basic_get("raw", no_ack=True)
        wait_until(lambda: queues.counts("raw") == (0, 0, 0))
        assert channel.basic_get("raw") is None


def test_waiting_for_messages_ends_with_the_callers_time_out(queues: Queues) -> None:
    with queues.app.connection_for_read() as connection, pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)
