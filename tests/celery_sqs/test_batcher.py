from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from celery_sqs import poller
from celery_sqs.batcher import CAPACITY, THREADS, Batcher, Entry
from celery_sqs.sqs import batches
from celery_sqs.sqs.errors import NO_SUCH_QUEUE
from tests.celery_sqs.doubles import ScriptedQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.sqs.queue import Queue

HOURS = 3600.0


def send(queue: Queue, parameters: list[dict[str, Any]]) -> list[str]:
    return queue.send_batch(parameters)


def make(linger: float = HOURS) -> Batcher:
    return Batcher("test", send, linger, lambda _, code: code == "Final")


@pytest.fixture(autouse=True)
def _short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FIRST_BACKOFF_SECONDS", 0.001)


@pytest.fixture
def done() -> list[str]:
    return []


def entries(queue: ScriptedQueue, done: list[str], count: int, size: int = 1) -> list[Entry]:
    return [Entry(queue, {"n": number}, done.append, size) for number in range(count)]


def test_a_full_batch_leaves_at_once_and_the_rest_lingers(done: list[str], wait_until: Callable[..., None]) -> None:
    queue, batcher = ScriptedQueue(), make()
    for entry in entries(queue, done, 13):
        batcher.add(entry)
    wait_until(lambda: len(done) == 10)
    assert [len(batch) for batch in queue.sent] == [10]
    batcher.flush_soon()
    wait_until(lambda: len(done) == 13)
    assert [len(batch) for batch in queue.sent] == [10, 3]


def test_what_lingers_leaves_when_its_time_is_up(done: list[str], wait_until: Callable[..., None]) -> None:
    queue, batcher = ScriptedQueue(), make(linger=0.01)
    batcher.add(entries(queue, done, 1)[0])
    wait_until(lambda: done == [""])


def test_a_batch_is_no_larger_than_one_mebibyte(done: list[str]) -> None:
    queue, batcher = ScriptedQueue(), make()
    for entry in entries(queue, done, 5, size=400_000):
        batcher.add(entry)
    assert batcher.flush(60) == 0
    assert max(len(batch) for batch in queue.sent) == 2
    assert sorted(item["n"] for batch in queue.sent for item in batch) == [0, 1, 2, 3, 4]


def test_each_queue_has_its_own_batches(done: list[str]) -> None:
    one, two, batcher = ScriptedQueue("one"), ScriptedQueue("two"), make()
    for entry in [*entries(one, done, 2), *entries(two, done, 3)]:
        batcher.add(entry)
    assert batcher.flush(60) == 0
    assert ([len(batch) for batch in one.sent], [len(batch) for batch in two.sent]) == ([2], [3])


def test_of_a_batch_only_what_failed_is_sent_again(done: list[str]) -> None:
    queue, batcher = ScriptedQueue(), make()
    queue.answers = [["", "InternalError", ""]]
    for entry in entries(queue, done, 3):
        batcher.add(entry)
    assert batcher.flush(60) == 0
    assert [[item["n"] for item in batch] for batch in queue.sent] == [[0, 1, 2], [1]]
    assert done == ["", "", ""]


def test_what_failed_of_a_batch_holds_up_nothing_else(
    done: list[str], wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "FIRST_BACKOFF_SECONDS", HOURS)
    monkeypatch.setattr(batches, "LAST_BACKOFF_SECONDS", HOURS)
    queue, batcher = ScriptedQueue(), make()
    queue.answers = [["InternalError"] + [""] * 9]
    for entry in entries(queue, done, 10):
        batcher.add(entry)
    wait_until(lambda: len(done) == 9)
    for entry in entries(queue, done, 10):
        batcher.add(entry)
    wait_until(lambda: len(done) == 19)
    assert batcher.flush(0) == 1


def test_a_final_error_is_told_and_not_tried_again(done: list[str]) -> None:
    queue, batcher = ScriptedQueue(), make()
    queue.answers = [["Final", ""]]
    for entry in entries(queue, done, 2):
        batcher.add(entry)
    assert batcher.flush(60) == 0
    assert sorted(done) == ["", "Final"]
    assert len(queue.sent) == 1


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://sqs"),
        ClientError({"Error": {"Code": "ThrottlingException"}}, "SendMessageBatch"),
    ],
    ids=["no connection", "throttled"],
)
def test_a_failed_request_is_sent_again_until_it_succeeds(error: Exception, done: list[str]) -> None:
    queue, batcher = ScriptedQueue(), make()
    queue.answers = [error] * 5
    for entry in entries(queue, done, 2):
        batcher.add(entry)
    assert batcher.flush(60) == 0
    assert done == ["", ""]
    assert len(queue.sent) == 6


def test_while_access_is_denied_an_entry_is_sent_again_and_the_process_receives_nothing(
    done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(poller.pause, "begin", pauses.append)
    queue, batcher = ScriptedQueue(), make()
    queue.answers = [ClientError({"Error": {"Code": "AccessDenied"}}, "SendMessageBatch")] * 2
    for entry in entries(queue, done, 2):
        batcher.add(entry)
    assert batcher.flush(60) == 0
    assert (done, len(queue.sent)) == (["", ""], 3)
    assert [pause > 1 for pause in pauses] == [True, True], "as long as the backoff, and until the next answer"


def test_a_full_buffer_makes_publishers_wait(done: list[str], wait_until: Callable[..., None]) -> None:
    queue, batcher = ScriptedQueue(), make()
    queue.gate.clear()
    in_flight = THREADS * 10
    for entry in entries(queue, done, CAPACITY + in_flight):
        batcher.add(entry)
    added: list[Any] = []
    publisher = threading.Thread(target=lambda: added.append(batcher.add(entries(queue, done, 1)[0])))
    publisher.start()
    batcher.add(entries(queue, done, 1)[0], may_wait=False)
    publisher.join(0.1)
    assert publisher.is_alive()
    assert not added
    queue.gate.set()
    publisher.join(60)
    assert batcher.flush(60) == 0
    assert len(done) == CAPACITY + in_flight + 2


def test_a_queue_that_takes_nothing_keeps_nobody_from_publishing_to_another(
    done: list[str], wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "FIRST_BACKOFF_SECONDS", HOURS)
    monkeypatch.setattr(batches, "LAST_BACKOFF_SECONDS", HOURS)
    failing, works, batcher = ScriptedQueue("failing"), ScriptedQueue("works"), make(linger=0.01)
    failing.answers = [ClientError({"Error": {"Code": "AccessDenied"}}, "SendMessageBatch")] * 2
    for entry in entries(failing, done, CAPACITY):
        batcher.add(entry)
    waits, publishes = (
        threading.Thread(target=lambda queue=queue: batcher.add(entries(queue, done, 1)[0]), daemon=True)
        for queue in (failing, works)
    )
    waits.start()
    publishes.start()
    publishes.join(10)
    wait_until(lambda: done == [""])
    assert waits.is_alive()


def test_a_batch_that_sqs_refuses_as_a_whole_costs_only_the_entry_that_is_the_cause(done: list[str]) -> None:
    queue, batcher = ScriptedQueue(), make()
    final = ClientError({"Error": {"Code": "Final"}}, "SendMessageBatch")
    queue.answers = [final, [""], final, [""]]
    for entry in entries(queue, done, 3):
        batcher.add(entry)
    assert batcher.flush(60) == 0
    assert done == ["", "Final", ""]
    assert [[item["n"] for item in batch] for batch in queue.sent] == [[0, 1, 2], [0], [1], [2]]


def test_a_batch_for_a_queue_that_is_not_there_is_refused_by_one_request(done: list[str]) -> None:
    queue = ScriptedQueue()
    batcher = Batcher("test", send, HOURS, lambda _, code: code in NO_SUCH_QUEUE)
    queue.answers = [ClientError({"Error": {"Code": "QueueDoesNotExist"}}, "SendMessageBatch")]
    for entry in entries(queue, done, 3):
        batcher.add(entry)
    assert batcher.flush(60) == 0
    assert done == ["QueueDoesNotExist"] * 3
    assert len(queue.sent) == 1


def test_a_flush_that_does_not_succeed_says_how_much_is_left(done: list[str]) -> None:
    queue, batcher = ScriptedQueue(), make()
    queue.gate.clear()
    for entry in entries(queue, done, 3):
        batcher.add(entry)
    assert batcher.flush(0.05) == 3
    queue.gate.set()
    assert batcher.flush(60) == 0
