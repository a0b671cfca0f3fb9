"""Events leave merged, in time, and never in anybody's way."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_sqs import events
from celery_sqs.events import BILLED_BYTES, EventPublisher, merged
from tests.celery_sqs.doubles import ScriptedQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.control_queues import ControlQueues


class Watchers:
    """Stands for ListQueues: `queues` are those who watch."""

    def __init__(self, *queues: ScriptedQueue) -> None:
        self.queues = list(queues)
        self.asked = 0
        self.error: Exception | None = None

    def bound_to(self, exchange: str) -> list[ScriptedQueue]:
        assert exchange == "celeryev"
        self.asked += 1
        if self.error:
            raise self.error
        return self.queues


def message(*found: dict[str, Any]) -> dict[str, Any]:
    return {"body": json.dumps(found[0] if len(found) == 1 else list(found)), "headers": {"hostname": "w1"}}


def event(kind: str = "task-received", **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def publisher(watchers: Watchers, window: float = 0.05, types: tuple[str, ...] = ()) -> EventPublisher:
    return EventPublisher(cast("ControlQueues", watchers), window, types)


def received(queue: ScriptedQueue) -> list[dict[str, Any]]:
    bodies = [entry["MessageBody"] for batch in queue.sent for entry in batch]
    return [each for body in bodies for each in json.loads(json.loads(body)["body"])]


@pytest.fixture
def watcher() -> ScriptedQueue:
    return ScriptedQueue()


def test_events_of_a_window_are_one_message_for_each_who_watches(wait_until: Callable[..., None]) -> None:
    one, two = ScriptedQueue("one"), ScriptedQueue("two")
    ours = publisher(Watchers(one, two), window=0.5)
    ours.add(message(event(uuid="1")))
    ours.add(message(event(uuid="2"), event(uuid="3")))
    for queue in (one, two):
        wait_until(lambda queue=queue: len(received(queue)) == 3)
        assert [len(batch) for batch in queue.sent] == [1]
        assert [each["uuid"] for each in received(queue)] == ["1", "2", "3"]


def test_nothing_is_sent_while_nobody_watches_and_who_comes_is_seen_on_a_command(
    watcher: ScriptedQueue, wait_until: Callable[..., None]
) -> None:
    watchers = Watchers()
    ours = publisher(watchers)
    heard: list[bool] = []
    ours.on_watched = heard.append
    for number in range(3):
        ours.add(message(event(number=number)))
        wait_until(lambda: not ours._events and not ours._sending)
    assert watchers.asked == 1, "the answer is remembered"
    watchers.queues.append(watcher)
    ours.look_again()
    ours.add(message(event(number="last")))
    wait_until(lambda: received(watcher))
    assert [each["number"] for each in received(watcher)] == ["last"]
    assert heard == [False, True]


def test_a_retry_leaves_at_once(watcher: ScriptedQueue, wait_until: Callable[..., None]) -> None:
    ours = publisher(Watchers(watcher), window=3600)
    ours.add(message(event("task-started")))
    ours.add(message(event("task-retried")))
    wait_until(lambda: len(received(watcher)) == 2)


def test_what_is_there_at_the_exit_leaves(watcher: ScriptedQueue) -> None:
    ours = publisher(Watchers(watcher), window=3600)
    ours.add(message(event("worker-offline")))
    ours.exit()
    assert [each["type"] for each in received(watcher)] == ["worker-offline"]


def test_only_the_chosen_types_leave(watcher: ScriptedQueue, wait_until: Callable[..., None]) -> None:
    ours = publisher(Watchers(watcher), types=("task-failed",))
    ours.add(message(event("task-received"), event("task-failed"), event("task-started")))
    wait_until(lambda: received(watcher))
    assert [each["type"] for each in received(watcher)] == ["task-failed"]


def test_after_a_failure_nothing_is_tried_for_a_while(
    watcher: ScriptedQueue, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    watchers = Watchers(watcher)
    watchers.error = ConnectionError("away")
    ours = publisher(watchers)
    for _ in range(3):
        ours.add(message(event()))
        wait_until(lambda: not ours._events and not ours._sending)
    assert watchers.asked == 1
    watchers.error = None
    ours.look_again()
    monkeypatch.setattr(ours, "_closed_until", 0.0)
    ours.add(message(event()))
    wait_until(lambda: received(watcher))


def test_adding_never_waits_for_sqs_and_the_oldest_go_where_there_are_too_many(
    watcher: ScriptedQueue, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "CAPACITY", 5)
    watcher.gate = threading.Event()
    ours = publisher(Watchers(watcher), window=0)
    ours.add(message(event(number="held")))
    wait_until(lambda: ours._sending)
    for number in range(12):
        ours.add(message(event(number=number)))
    assert len(ours._events) == 5
    watcher.gate.set()
    wait_until(lambda: len(received(watcher)) == 6)
    assert [each["number"] for each in received(watcher)] == ["held", 7, 8, 9, 10, 11]


@given(st.lists(st.dictionaries(st.text(), st.text(max_size=20_000), max_size=3), max_size=30))
def test_merged_messages_keep_every_event_and_each_counts_as_one_request(found: list[dict[str, str]]) -> None:
    bodies = list(merged(found, {"hostname": "w1"}))
    assert [each for body in bodies for each in json.loads(json.loads(body)["body"])] == found
    for body in bodies:
        assert len(body) <= BILLED_BYTES or len(json.loads(json.loads(body)["body"])) == 1
