from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from celery_sqs.held_message import State
from celery_sqs.held_messages import HeldMessages
from celery_sqs.sqs.dead_letters import Reason
from celery_sqs.sqs.queue import Queue
from tests.celery_sqs.doubles import ScriptedQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.held_message import HeldMessage

REASON = Reason("NotWanted", "nobody wants it")
CHILD = {"MessageBody": "child"}


@pytest.fixture
def messages() -> HeldMessages:
    return HeldMessages()


@pytest.fixture
def queue() -> ScriptedQueue:
    return ScriptedQueue(dead_letters=ScriptedQueue("q-dlq"))


@pytest.fixture
def message(messages: HeldMessages, queue: ScriptedQueue) -> HeldMessage:
    return receive(messages, queue, "1")


def receive(messages: HeldMessages, queue: ScriptedQueue, number: str) -> HeldMessage:
    received: dict[str, Any] = {"Body": "body", "MessageId": f"m{number}", "ReceiptHandle": f"h{number}"}
    return messages.add(queue, received, visibility_timeout=60)


def bodies(queue: Any) -> list[str]:
    return [entry["MessageBody"] for batch in queue.sent for entry in batch]


def test_an_acknowledged_message_is_deleted(messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage) -> None:
    message.ack()
    message.wait_settled()
    assert queue.deleted == [[{"ReceiptHandle": "h1"}]]
    assert messages.held() == []


def test_it_is_not_deleted_before_what_it_published_is_confirmed(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage, wait_until: Callable[..., None]
) -> None:
    children = ScriptedQueue("children")
    children.gate.clear()
    message.publish(children, CHILD)
    message.publish(children, CHILD)
    message.ack()
    assert messages.deletes.flush(0.1) == 0
    assert queue.deleted == []
    assert messages.held() == [message]
    children.gate.set()
    wait_until(lambda: messages.held() == [])
    assert bodies(children) == ["child", "child"]
    assert len(queue.deleted) == 1


def test_a_reject_waits_for_the_children_too(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage, wait_until: Callable[..., None]
) -> None:
    children = ScriptedQueue("children")
    children.gate.clear()
    message.publish(children, CHILD)
    message.reject(REASON)
    assert bodies(queue.dead_letters()) == []
    children.gate.set()
    wait_until(lambda: messages.held() == [])
    assert bodies(queue.dead_letters()) == ["body"]
    assert len(queue.deleted) == 1


def test_a_child_that_sqs_refuses_for_good_makes_its_parent_a_dead_letter(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage, wait_until: Callable[..., None]
) -> None:
    children = ScriptedQueue("children")
    children.answers = [["InvalidMessageContents"]]
    message.publish(children, CHILD)
    message.ack()
    wait_until(lambda: messages.held() == [])
    (letter,) = (entry for batch in queue.dead_letters().sent for entry in batch)  # type: ignore[union-attr]  # it is not None
    assert letter["MessageAttributes"]["Reason"]["StringValue"] == "ChildRefused"
    assert "InvalidMessageContents" in letter["MessageAttributes"]["Detail"]["StringValue"]


@pytest.mark.parametrize("code", ["AccessDenied", "KmsAccessDenied"])
def test_a_child_for_a_queue_that_is_not_ours_is_refused_for_good_and_one_for_ours_is_not(code: str) -> None:
    others, own = (Queue("q", "http://sqs/q", lambda: None, is_own=lambda own=own: own) for own in (False, True))
    assert others.is_final_for_send(code)
    assert not own.is_final_for_send(code)
    assert not others.is_final_for_send("ExpiredToken"), "that is about us, and about no queue"


def test_a_dead_letter_queue_that_refuses_leaves_the_message_to_come_back(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage, wait_until: Callable[..., None]
) -> None:
    queue.dead_letters().answers = [["QueueDoesNotExist"]]  # type: ignore[union-attr]  # it is not None
    message.reject(REASON)
    wait_until(lambda: messages.held() == [])
    assert queue.deleted == []


def test_a_delayed_copy_is_confirmed_before_the_original_goes(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage, wait_until: Callable[..., None]
) -> None:
    queue.gate.clear()
    message.delay(30)
    assert messages.deletes.flush(0.05) == 0
    queue.gate.set()
    wait_until(lambda: messages.held() == [])
    (copy,) = queue.sent[0]
    assert (copy["MessageBody"], copy["DelaySeconds"]) == ("body", 30)
    assert len(queue.deleted) == 1


def test_a_stale_handle_is_no_error(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage, wait_until: Callable[..., None]
) -> None:
    queue.answers = [["ReceiptHandleIsInvalid"]]
    message.ack()
    wait_until(lambda: messages.held() == [])
    assert len(queue.deleted) == 1


def test_what_no_work_began_on_is_released_and_work_on_it_may_not_begin(
    messages: HeldMessages, queue: ScriptedQueue
) -> None:
    started, waiting = receive(messages, queue, "1"), receive(messages, queue, "2")
    assert started.start()
    messages.release(messages.held())
    assert queue.changed == [[{"ReceiptHandle": "h2", "VisibilityTimeout": 0}]]
    assert messages.held() == [started]
    assert not waiting.start()
    waiting.ack()
    assert queue.deleted == []


@pytest.mark.parametrize(
    ("steps", "is_released"),
    [
        ((), True),
        (("hand_over",), False),
        (("wait_for_start",), True),
        (("hand_over", "wait_for_start"), True),
        (("hand_over", "wait_for_start", "start"), False),
        (("hand_over", "wait_for_start", "start", "hand_over", "wait_for_start"), False),
        (("ack",), False),
        (("ack", "wait_for_start"), False),
    ],
    ids=repr,
)
def test_it_is_released_only_while_its_work_cannot_have_begun(
    messages: HeldMessages, message: HeldMessage, steps: tuple[str, ...], is_released: bool
) -> None:
    for step in steps:
        getattr(message, step)()
    assert (messages.release([message]) == [message]) == is_released
    assert message.start() != is_released, "work that may begin, and a message that others get"


def test_what_is_to_be_released_while_the_worker_makes_its_request_is_released_when_that_is_made(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage
) -> None:
    message.hand_over()
    assert messages.release([message]) == []
    assert queue.changed == []
    message.wait_for_start()
    assert not message.start()
    assert messages.held() == []
    assert queue.changed == [[{"ReceiptHandle": "h1", "VisibilityTimeout": 0}]]


def test_work_on_what_was_acknowledged_early_may_begin_and_is_not_counted(message: HeldMessage) -> None:
    message.ack()
    assert message.start()
    assert message.state is State.FINISHED


def test_a_publish_does_not_linger_where_no_other_task_is_at_work(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages.sends, "_linger", 3600.0)
    other = receive(messages, queue, "2")
    message.publish(queue, CHILD)
    message.ack()
    assert queue.sent == []
    other.ack()
    message.wait_settled()
    assert bodies(queue) == ["child"]


def test_at_exit_what_is_finished_is_confirmed_and_the_rest_is_visible_again(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage
) -> None:
    running = receive(messages, queue, "2")
    running.start()
    message.publish(queue, CHILD)
    message.ack()
    messages.exit()
    assert bodies(queue) == ["child"]
    assert queue.deleted == [[{"ReceiptHandle": "h1"}]]
    assert queue.changed == [[{"ReceiptHandle": "h2", "VisibilityTimeout": 0}]]


def test_the_exit_waits_for_a_release_in_another_thread(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage, wait_until: Callable[..., None]
) -> None:
    queue.gate.clear()
    threads = [threading.Thread(target=messages.release, args=([message],)), threading.Thread(target=messages.exit)]
    threads[0].start()
    wait_until(lambda: messages.held() == [])
    threads[1].start()
    threads[1].join(0.1)
    assert threads[1].is_alive(), "the process would end before the message is visible"
    queue.gate.set()
    for thread in threads:
        thread.join()
    assert queue.changed == [[{"ReceiptHandle": "h1", "VisibilityTimeout": 0}]]


class SlowToExtend(ScriptedQueue):
    """Answers a request that makes messages visible at once, and one that hides them when `gate` is set."""

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
        lambda messages, message: messages.release([message]),
        lambda messages, _: messages.exit(),
        lambda _, message: message.give_back(after=0),
    ],
    ids=["release", "exit", "give back"],
)
def test_an_extension_that_is_under_way_does_not_hide_what_is_given_back(
    messages: HeldMessages, give_back: Callable[..., Any]
) -> None:
    queue = SlowToExtend()
    message = receive(messages, queue, "1")
    message.extended_at -= 30
    queue.gate.clear()
    threads = [
        threading.Thread(target=messages._keeper.extend),
        threading.Thread(target=give_back, args=(messages, message)),
    ]
    threads[0].start()
    assert queue.extending.wait(60)
    threads[1].start()
    threads[1].join(0.1)  # long enough to finish first, if it did not have to wait
    queue.gate.set()
    for thread in threads:
        thread.join()
    assert [entry["VisibilityTimeout"] for batch in queue.changed for entry in batch] == [60, 0]


def test_an_exit_that_cannot_flush_says_what_is_left(
    messages: HeldMessages,
    queue: ScriptedQueue,
    message: HeldMessage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    children = ScriptedQueue("children")
    children.gate.clear()
    message.publish(children, CHILD)
    message.ack()
    messages.exit(flush_seconds=0.05)
    assert "SQS has not confirmed 1 sends and 0 deletions" in caplog.text
    children.gate.set()


def test_a_message_is_freed_as_soon_as_it_is_settled(
    messages: HeldMessages, queue: ScriptedQueue, message: HeldMessage
) -> None:
    gc.disable()  # a reference cycle would keep it, with its body, until a collection
    try:
        child = messages.hand_off(queue, message, CHILD, "child")
        freed = weakref.ref(child)
        child.ack()
        del child
        assert freed() is None
    finally:
        gc.enable()
