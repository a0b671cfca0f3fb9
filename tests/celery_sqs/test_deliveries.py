from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_sqs.deliveries import Deliveries, Delivery, is_final_for_send
from celery_sqs.sqs.dead_letters import Reason
from celery_sqs.sqs.queue import Queue
from tests.celery_sqs.doubles import ScriptedQueue

if TYPE_CHECKING:
    from collections.abc import Callable

REASON = Reason("NotWanted", "nobody wants it")
CHILD = {"MessageBody": "child"}


@pytest.fixture
def deliveries() -> Deliveries:
    return Deliveries()


@pytest.fixture
def queue() -> ScriptedQueue:
    return ScriptedQueue(dead_letters=ScriptedQueue("q-dlq"))


@pytest.fixture
def delivery(deliveries: Deliveries, queue: ScriptedQueue) -> Delivery:
    return receive(deliveries, queue, "1")


def receive(deliveries: Deliveries, queue: ScriptedQueue, number: str) -> Delivery:
    message: dict[str, Any] = {"Body": "body", "MessageId": f"m{number}", "ReceiptHandle": f"h{number}"}
    return deliveries.add(queue, message, visibility_timeout=60)


def bodies(queue: Any) -> list[str]:
    return [entry["MessageBody"] for batch in queue.sent for entry in batch]


def test_an_acknowledged_message_is_deleted(deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery) -> None:
    delivery.ack()
    delivery.wait_settled()
    assert queue.deleted == [[{"ReceiptHandle": "h1"}]]
    assert deliveries.held() == []


def test_it_is_not_deleted_before_what_it_published_is_confirmed(
    deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery, wait_until: Callable[..., None]
) -> None:
    children = ScriptedQueue("children")
    children.gate.clear()
    delivery.publish(children, CHILD)
    delivery.publish(children, CHILD)
    delivery.ack()
    assert deliveries.deletes.flush(0.1) == 0
    assert queue.deleted == []
    assert deliveries.held() == [delivery]
    children.gate.set()
    wait_until(lambda: deliveries.held() == [])
    assert bodies(children) == ["child", "child"]
    assert len(queue.deleted) == 1


def test_a_reject_waits_for_the_children_too(
    deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery, wait_until: Callable[..., None]
) -> None:
    children = ScriptedQueue("children")
    children.gate.clear()
    delivery.publish(children, CHILD)
    delivery.reject(REASON)
    assert bodies(queue.dead_letters()) == []
    children.gate.set()
    wait_until(lambda: deliveries.held() == [])
    assert bodies(queue.dead_letters()) == ["body"]
    assert len(queue.deleted) == 1


def test_a_child_that_sqs_refuses_for_good_makes_its_parent_a_dead_letter(
    deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery, wait_until: Callable[..., None]
) -> None:
    children = ScriptedQueue("children")
    children.answers = [["InvalidMessageContents"]]
    delivery.publish(children, CHILD)
    delivery.ack()
    wait_until(lambda: deliveries.held() == [])
    (letter,) = (entry for batch in queue.dead_letters().sent for entry in batch)  # type: ignore[union-attr]  # it is one
    assert letter["MessageAttributes"]["Reason"]["StringValue"] == "ChildRefused"
    assert "InvalidMessageContents" in letter["MessageAttributes"]["Detail"]["StringValue"]


@pytest.mark.parametrize("code", ["AccessDenied", "KmsAccessDenied"])
def test_a_child_for_a_queue_that_is_not_ours_is_refused_for_good_and_one_for_ours_is_not(code: str) -> None:
    others, own = (Queue("q", "http://sqs/q", lambda: None, is_own=lambda own=own: own) for own in (False, True))
    assert is_final_for_send(others, code)
    assert not is_final_for_send(own, code)
    assert not is_final_for_send(others, "ExpiredToken"), "that is about us, and about no queue"


def test_a_dead_letter_queue_that_refuses_leaves_the_message_to_come_back(
    deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery, wait_until: Callable[..., None]
) -> None:
    queue.dead_letters().answers = [["QueueDoesNotExist"]]  # type: ignore[union-attr]  # it is one
    delivery.reject(REASON)
    wait_until(lambda: deliveries.held() == [])
    assert queue.deleted == []


def test_a_delayed_copy_is_confirmed_before_the_original_goes(
    deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery, wait_until: Callable[..., None]
) -> None:
    queue.gate.clear()
    delivery.delay(30)
    assert deliveries.deletes.flush(0.05) == 0
    queue.gate.set()
    wait_until(lambda: deliveries.held() == [])
    (copy,) = queue.sent[0]
    assert (copy["MessageBody"], copy["DelaySeconds"]) == ("body", 30)
    assert len(queue.deleted) == 1


def test_a_stale_handle_is_no_error(
    deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery, wait_until: Callable[..., None]
) -> None:
    queue.answers = [["ReceiptHandleIsInvalid"]]
    delivery.ack()
    wait_until(lambda: deliveries.held() == [])
    assert len(queue.deleted) == 1


def test_what_no_work_began_on_is_released_and_work_on_it_may_not_begin(
    deliveries: Deliveries, queue: ScriptedQueue
) -> None:
    started, waiting = receive(deliveries, queue, "1"), receive(deliveries, queue, "2")
    assert started.start()
    deliveries.release(deliveries.held())
    assert queue.changed == [[{"ReceiptHandle": "h2", "VisibilityTimeout": 0}]]
    assert deliveries.held() == [started]
    assert not waiting.start()
    waiting.ack()
    assert queue.deleted == []


def test_a_publish_does_not_linger_where_no_other_task_is_at_work(
    deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries.sends, "_linger", 3600.0)
    other = receive(deliveries, queue, "2")
    delivery.publish(queue, CHILD)
    delivery.ack()
    assert queue.sent == []
    other.ack()
    delivery.wait_settled()
    assert bodies(queue) == ["child"]


def test_at_exit_what_is_finished_is_confirmed_and_the_rest_is_visible_again(
    deliveries: Deliveries, queue: ScriptedQueue, delivery: Delivery
) -> None:
    running = receive(deliveries, queue, "2")
    running.start()
    delivery.publish(queue, CHILD)
    delivery.ack()
    deliveries.exit()
    assert bodies(queue) == ["child"]
    assert queue.deleted == [[{"ReceiptHandle": "h1"}]]
    assert queue.changed == [[{"ReceiptHandle": "h2", "VisibilityTimeout": 0}]]


class SlowToExtend(ScriptedQueue):
    """Answers a request that gives messages back at once, and one that hides them when `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.extending = threading.Event()

    def change_visibility_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        if batch[0]["VisibilityTimeout"]:
            self.extending.set()
            return super().change_visibility_batch(batch)
        self.changed.append(batch)
        return [""] * len(batch)


@pytest.mark.parametrize(
    "give_back",
    [
        lambda deliveries, delivery: deliveries.release([delivery]),
        lambda deliveries, _: deliveries.exit(),
        lambda _, delivery: delivery.give_up(after=0),
    ],
    ids=["release", "exit", "give up"],
)
def test_an_extension_that_is_under_way_does_not_hide_what_is_given_back(
    deliveries: Deliveries, give_back: Callable[..., Any]
) -> None:
    queue = SlowToExtend()
    delivery = receive(deliveries, queue, "1")
    delivery.extended_at -= 30
    queue.gate.clear()
    threads = [
        threading.Thread(target=deliveries._keeper.extend),
        threading.Thread(target=give_back, args=(deliveries, delivery)),
    ]
    threads[0].start()
    assert queue.extending.wait(60)
    threads[1].start()
    threads[1].join(0.1)  # time enough to come first, if it were not made to wait
    queue.gate.set()
    for thread in threads:
        thread.join()
    assert [entry["VisibilityTimeout"] for batch in queue.changed for entry in batch] == [60, 0]


def test_an_exit_that_cannot_flush_says_what_is_left(
    deliveries: Deliveries,
    queue: ScriptedQueue,
    delivery: Delivery,
    caplog: pytest.LogCaptureFixture,
) -> None:
    children = ScriptedQueue("children")
    children.gate.clear()
    delivery.publish(children, CHILD)
    delivery.ack()
    deliveries.exit(flush_seconds=0.05)
    assert "SQS confirmed neither 1 messages sent nor 0 deleted" in caplog.text
    children.gate.set()
