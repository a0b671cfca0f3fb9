"""Hand-off in real workers. test_no_loss.py kills them while they hand off."""

from __future__ import annotations

import json
import os
import signal
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from celery_sqs.hand_off import MAX_BYTES, MAX_HOPS
from tests.celery_sqs.conftest import watching
from tests.celery_sqs.pools import POOLS, SOLO, each_pool, threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.celery_sqs.conftest import Queues

ONE_THREAD = ("-P", "threads", "-c", "1", "--prefetch-multiplier", "40")


def where(name: str, **options: Any) -> tuple[str, list[str], dict[str, Any]]:
    """Return a call that writes to the journal how its message came to the worker."""
    return ("where", [name], options)


@pytest.mark.parametrize(
    ("pool", "way"),
    [
        (POOLS["threads"], "handed off"),
        pytest.param(POOLS["gevent"], "handed off", marks=pytest.mark.slow),
        pytest.param(SOLO, "handed off", marks=pytest.mark.slow),
        pytest.param(POOLS["prefork"], "by SQS", marks=pytest.mark.slow),
    ],
    ids=["threads", "gevent", "solo", "prefork"],
)
def test_pools_within_the_workers_process_hand_off_what_their_tasks_publish(
    queues: Queues, pool: tuple[str, ...], way: str, wait_until: Callable[..., None]
) -> None:
    queues.start(*pool)
    queues.send("publish", [where("a"), where("b")])
    wait_until(lambda: queues.lines() == {"published": 1, f"a {way}": 1, f"b {way}": 1})
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert queues.dead_letters() == []


@pytest.mark.slow
def test_what_does_not_meet_a_condition_goes_through_sqs(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.create_queue("other")
    queues.start(*threads)
    calls = [
        where("delayed", countdown=1),
        where("large" + "x" * MAX_BYTES),
        ("early", ["early", 0], {}),
        where("not consumed here", queue="other"),
        ("unknown", [], {"queue": "other"}),
    ]
    queues.send("publish", calls)
    queues.send("again", "retried", 0)
    wait_until(lambda: queues.lines().total() == 1 + 2 + 2 + 2)
    ways = {line.rpartition("x")[2] for line in queues.lines() if line.endswith("by SQS")}
    assert ways == {"delayed by SQS", " by SQS"}
    wait_until(lambda: queues.counts("other") == (2, 0, 0))
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_the_transport_option_turns_it_off(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.start(*threads, TRANSPORT_OPTIONS=json.dumps({"hand_off": False}))
    queues.send("publish", [where("a")])
    wait_until(lambda: queues.lines() == {"published": 1, "a by SQS": 1})


def test_a_task_that_publishes_itself_goes_through_sqs_after_ten_hops(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    queues.start(*threads)
    queues.send("relay", 2 * MAX_HOPS + 3)
    wait_until(lambda: queues.lines().total() == 2 * MAX_HOPS + 4)
    through_sqs = [int(line.split()[0]) for line in queues.lines() if line.endswith("by SQS")]
    assert through_sqs == [2 * MAX_HOPS + 3, MAX_HOPS + 2, 1]
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_a_wide_task_leaves_to_other_workers_what_this_one_cannot_begin_soon(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    done = queues.folder / "done"
    queues.start("-P", "threads", "-c", "1", "--prefetch-multiplier", "12")
    queues.send("publish", [where(f"{number}") for number in range(30)], str(done))
    wait_until(lambda: sum(queues.counts()) == 1 + 18, what="the root and those beyond the prefetch of twelve")
    done.touch()
    wait_until(lambda: queues.lines().total() == 1 + 30)
    assert sum(line.endswith("handed off") for line in queues.lines()) == 12


@each_pool
def test_what_a_child_raises_is_a_dead_letter_and_the_root_is_deleted(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    queues.start(*pool)
    queues.send("publish", [("boom", [], {}), ("refuse", [], {}), where("a")])
    letters: list[dict[str, str]] = []
    wait_until(lambda: letters.extend(queues.dead_letters()) or len(letters) == 2)
    assert {letter["Reason"] for letter in letters} == {"ValueError", "NotWanted"}
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert "private content" not in "".join(letter["Detail"] for letter in letters)


@pytest.mark.slow
def test_a_child_that_asks_to_be_requeued_comes_back_through_sqs(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    queues.start(*threads)
    queues.send("publish", [("requeue_twice", [], {})])
    wait_until(lambda: sum(line.startswith("run") for line in queues.lines().elements()) == 3)
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert queues.dead_letters() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "number"),
    [
        pytest.param(ONE_THREAD, signal.SIGTERM, id="threads"),
        pytest.param(ONE_THREAD, signal.SIGQUIT, id="threads, SIGQUIT", marks=pytest.mark.slow),
        pytest.param(("-P", "gevent", *ONE_THREAD[2:]), signal.SIGTERM, id="gevent", marks=pytest.mark.slow),
    ],
)
def test_at_a_stop_unbegun_children_are_published_and_what_ran_is_not_repeated(
    queues: Queues, pool: tuple[str, ...], number: signal.Signals, wait_until: Callable[..., None]
) -> None:
    done = queues.folder / "done"
    worker = queues.start(*pool, VISIBILITY_TIMEOUT="600")
    queues.send("publish", [where(f"{number}") for number in range(5)], str(done))
    wait_until(lambda: queues.lines() == {"published": 1})
    assert sum(queues.counts()) == 1, "only the root is on SQS"
    worker.send_signal(number)
    wait_until(lambda: queues.counts() == (5, 1, 0), what="the children are published while their parent still runs")
    done.touch()
    assert worker.wait(60) == 0
    assert queues.counts() == (5, 0, 0)
    queues.start(*pool)
    wait_until(lambda: queues.lines() == {"published": 1, **{f"{number} by SQS": 1 for number in range(5)}})
    assert "Traceback" not in queues.log()


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_because_its_root_comes_back(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    done = queues.folder / "done"
    worker = queues.start(*ONE_THREAD, VISIBILITY_TIMEOUT="3")
    queues.send("publish", [("hold", ["child", str(done)], {}), where("sibling")])
    wait_until(lambda: queues.lines() == {"published": 1, "start child": 1})
    assert queues.counts() == (0, 1, 0), "the root is kept although its task has ended"
    os.killpg(worker.pid, signal.SIGKILL)
    done.touch()
    queues.start(*threads)
    wait_until(lambda: queues.lines()["sibling handed off"] == 1 and queues.lines()["end child"] == 1)
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert queues.lines()["published"] == 2


@pytest.mark.slow
def test_a_root_stays_invisible_while_only_its_child_runs(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.start(*threads, VISIBILITY_TIMEOUT="2")
    queues.send("publish", [("nap", ["child", 5], {})])
    wait_until(lambda: queues.lines()["end child"] == 1)
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert set(queues.lines().values()) == {1}


@pytest.mark.slow
def test_monitoring_sees_a_child_as_any_other_task(queues: Queues, wait_until: Callable[..., None]) -> None:
    done, events = queues.folder / "done", []
    runs, revoked = uuid.uuid4().hex, uuid.uuid4().hex

    def types(task_id: str) -> list[str]:
        return [event["type"] for event in events if event.get("uuid") == task_id]

    with watching(queues, events):
        queues.start(*ONE_THREAD, "-n", "one@test", SEND_EVENTS="1")
        wait_until(lambda: any(event["type"] == "worker-online" for event in events))
        calls = [("hold", ["child", str(done)], {"task_id": runs}), ("note", ["revoked"], {"task_id": revoked})]
        root = queues.send("publish", calls)
        wait_until(lambda: queues.lines()["start child"] == 1)
        inspect = queues.app.control.inspect(["one@test"], limit=1, timeout=10)
        assert [task["id"] for task in inspect.active()["one@test"]] == [runs]
        assert [task["id"] for task in inspect.reserved()["one@test"]] == [revoked]
        assert inspect.query_task(runs)["one@test"][runs][0] == "active"
        queues.app.control.revoke(revoked, reply=True, limit=1, timeout=10)
        done.touch()
        wait_until(lambda: types(revoked) == ["task-received", "task-revoked"])
        wait_until(lambda: types(runs) == ["task-received", "task-started", "task-succeeded"])
    (received,) = (event for event in events if event.get("uuid") == runs and event["type"] == "task-received")
    assert (received["name"], received["parent_id"], received["root_id"]) == ("hold", root, root)
    queues.stop()
    assert queues.lines()["revoked"] == 0
    assert f"Task hold[{runs}] received" in queues.log()
    assert queues.counts() == (0, 0, 0)
