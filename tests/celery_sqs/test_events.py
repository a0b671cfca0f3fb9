"""Events are merged and sent in time, and they never block anything."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from celery_sqs import events
from celery_sqs.clients import SHORT_TIMEOUTS
from celery_sqs.control_queues import ControlQueues
from celery_sqs.events import BILLED_BYTES, EventPublisher, merged
from tests.celery_sqs.doubles import ScriptedQueue
from tests.support.proxy import Dropped, Proxy, running
from tests.support.sqs import emulator_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_sqs.control_queues import ControlQueue
    from tests.celery_sqs.conftest import Queues


class Watchers:
    """Stands in for ListQueues. `queues` are the queues of the monitors that watch."""

    def __init__(self, *queues: ScriptedQueue) -> None:
        self.queues = list(queues)
        self.asked = 0
        self.error: Exception | None = None

    def bound_to(self, exchange: str) -> list[ScriptedQueue]:
        assert exchange == "celeryev"
        self.asked += 1
        if self.error:
            raise self.error
        return list(self.queues)


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


def send(ours: EventPublisher, wait_until: Callable[..., None], *numbers: int) -> None:
    """Send events with these numbers, each in its own window."""
    for number in numbers:
        ours.add(message(event(number=number)))
        wait_until(lambda: not ours._events and not ours._sending)


def numbers(queue: ScriptedQueue) -> list[int]:
    return [each["number"] for each in received(queue)]


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": ""}}, "SendMessageBatch")


def test_after_a_failed_search_there_is_none_for_a_while_even_if_somebody_begins_to_watch(
    watcher: ScriptedQueue, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    watchers = Watchers(watcher)
    watchers.error = ConnectionError("away")
    ours = publisher(watchers)
    for number in range(3):
        ours.look_again()
        send(ours, wait_until, number)
    assert watchers.asked == 1
    watchers.error = None
    monkeypatch.setattr(ours, "_resting_until", {})
    send(ours, wait_until, 3)
    assert numbers(watcher) == [3]


def test_a_failed_search_costs_known_watchers_nothing(watcher: ScriptedQueue, wait_until: Callable[..., None]) -> None:
    watchers = Watchers(watcher)
    ours = publisher(watchers)
    send(ours, wait_until, 1)
    watchers.error = ConnectionError("away")
    ours.look_again()
    send(ours, wait_until, 2, 3)
    assert numbers(watcher) == [1, 2, 3]


@pytest.mark.parametrize("position", [0, 1], ids=["first", "last"])
def test_a_watcher_that_has_gone_costs_the_others_nothing_and_is_dropped(
    wait_until: Callable[..., None], position: int
) -> None:
    gone, stays = ScriptedQueue("gone"), ScriptedQueue("stays")
    gone.answers = [client_error("QueueDoesNotExist")] * 3
    watchers = Watchers(stays)
    watchers.queues.insert(position, gone)
    ours = publisher(watchers)
    send(ours, wait_until, 1)
    watchers.queues.remove(gone)
    send(ours, wait_until, 2, 3)
    assert numbers(stays) == [1, 2, 3]
    assert len(gone.sent) == 1
    assert watchers.asked == 2, "it looked again at once, and once"


def test_a_watcher_that_is_still_listed_after_it_has_gone_is_not_tried_at_once(wait_until: Callable[..., None]) -> None:
    gone, stays = ScriptedQueue("gone"), ScriptedQueue("stays")
    gone.answers = [client_error("QueueDoesNotExist")] * 3
    ours = publisher(Watchers(gone, stays))
    send(ours, wait_until, 1, 2, 3)
    assert numbers(stays) == [1, 2, 3]
    assert len(gone.sent) == 1


@pytest.mark.parametrize(
    "answer",
    [client_error("AccessDenied"), client_error("RequestThrottled"), ConnectionError("away"), ["InternalError"]],
    ids=["refused", "throttled", "unreachable", "every entry refused"],
)
def test_a_watcher_that_fails_is_left_alone_for_a_while_and_the_others_miss_nothing(
    wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    failing, works = ScriptedQueue("failing"), ScriptedQueue("works")
    failing.answers = [answer]
    heard: list[bool] = []
    ours = publisher(Watchers(failing, works))
    ours.on_watched = heard.append
    send(ours, wait_until, 1, 2)
    assert numbers(works) == [1, 2]
    assert len(failing.sent) == 1
    monkeypatch.setattr(ours, "_resting_until", {})
    send(ours, wait_until, 3)
    assert numbers(works) == [1, 2, 3]
    assert numbers(failing) == [1, 3], "the first of them was refused"
    assert heard == [True]


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


@pytest.fixture
def watching(queues: Queues) -> Iterator[Callable[[str], ControlQueues]]:
    """Return the control queues of another process that watches events. It reaches SQS at this endpoint."""
    made: list[ControlQueues] = []

    def start(endpoint: str) -> ControlQueues:
        client = emulator_client("sqs", endpoint, config=Config(**SHORT_TIMEOUTS))
        made.append(ControlQueues(f"{queues.prefix}control-", lambda: client, lambda: client, {}, {}))
        made[-1].open("events", "celeryev", "#")
        return made[-1]

    yield start
    for each in made:
        each.exit()


def own_queue(process: ControlQueues) -> ControlQueue:
    queue = process.get("events")
    assert queue
    return queue


def numbers_seen(process: ControlQueues, seen: list[int]) -> list[int]:
    """Return the numbers in all events that the process has received, including those in `seen`."""
    for received_message in own_queue(process).receive(10, 0, 60):
        seen.extend(each["number"] for each in json.loads(json.loads(received_message["Body"])["body"]))
    return sorted(seen)


def test_two_watch_on_sqs_and_one_goes_and_the_other_misses_nothing(
    queues: Queues, watching: Callable[[str], ControlQueues], wait_until: Callable[..., None]
) -> None:
    first, second = sorted((watching(queues.endpoint) for _ in range(2)), key=lambda each: own_queue(each).name)
    ours = EventPublisher(second, 0.05, ())
    send(ours, wait_until, 1)
    wait_until(lambda: numbers_seen(first, []) == [1])
    first.exit()
    send(ours, wait_until, 2, 3)
    seen: list[int] = []
    wait_until(lambda: numbers_seen(second, seen) == [1, 2, 3])


@pytest.mark.parametrize("code", ["AccessDenied", "ThrottlingException", "away"])
def test_a_watchers_queue_that_fails_on_sqs_costs_the_others_nothing(
    queues: Queues, watching: Callable[[str], ControlQueues], wait_until: Callable[..., None], code: str
) -> None:
    refused: list[str] = []

    def refuse(service: str, action: str, body: bytes) -> str:
        if action != "SendMessageBatch" or own_queue(first).name not in body.decode():
            return ""
        refused.append(code)
        if code == "away":
            raise Dropped
        return code

    with running(Proxy(queues.endpoint, refuse)) as proxy:
        first, second = sorted((watching(proxy.url) for _ in range(2)), key=lambda each: own_queue(each).name)
        ours = EventPublisher(second, 0.05, ())
        send(ours, wait_until, 1, 2, 3)
        seen: list[int] = []
        wait_until(lambda: numbers_seen(second, seen) == [1, 2, 3])
    assert refused == [code], "it is left alone for a while"


@given(st.lists(st.dictionaries(st.text(), st.text(max_size=20_000), max_size=3), max_size=30))
def test_merged_messages_keep_every_event_and_each_counts_as_one_request(found: list[dict[str, str]]) -> None:
    bodies = list(merged(found, {"hostname": "w1"}))
    assert [each for body in bodies for each in json.loads(json.loads(body)["body"])] == found
    for body in bodies:
        assert len(body) <= BILLED_BYTES or len(json.loads(json.loads(body)["body"])) == 1
