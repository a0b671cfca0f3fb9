"""What is handed off, and how it is settled. test_hand_off_in_a_worker.py runs workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from celery_sqs import receiving
from celery_sqs.hand_off import MAX_BYTES, MAX_HOPS, ConsumedQueue, HandedOffMessage, why_not
from celery_sqs.held_message import HeldMessage
from celery_sqs.held_messages import HeldMessages
from celery_sqs.sqs.dead_letters import Reason
from tests.celery_sqs.doubles import ScriptedQueue, Worker

if TYPE_CHECKING:
    from collections.abc import Callable


REASON = Reason("NotWanted", "nobody wants it")
QUEUE, FIFO = ScriptedQueue(), ScriptedQueue("q.fifo")
MESSAGE = {"MessageBody": "child"}


@pytest.mark.parametrize(
    ("consumed", "changes", "answer"),
    [
        (ConsumedQueue("q", QUEUE), {}, ""),
        (ConsumedQueue("q", QUEUE), {"parameters": MESSAGE | {"DelaySeconds": 0}}, ""),
        (ConsumedQueue("q", QUEUE), {"parameters": {"MessageBody": "x" * MAX_BYTES}}, ""),
        (ConsumedQueue("q", QUEUE), {"parent": SimpleNamespace(queue=QUEUE, hops=MAX_HOPS - 1)}, ""),
        (None, {}, "this worker does not consume its queue"),
        (ConsumedQueue("q.fifo", FIFO), {}, "its queue is FIFO"),
        (ConsumedQueue("q", QUEUE), {"parent": SimpleNamespace(queue=FIFO, hops=0)}, "its parent's queue is FIFO"),
        (ConsumedQueue("q", QUEUE, is_raw=True), {}, "its queue is a raw queue"),
        (ConsumedQueue("q", QUEUE, has_backoff_policy=True), {}, "its queue has a backoff policy"),
        (ConsumedQueue("q", QUEUE, priority=-1), {}, "its queue has a low priority"),
        (ConsumedQueue("q", QUEUE, has_room=False), {}, "too many wait to begin"),
        (ConsumedQueue("q", QUEUE), {"parameters": MESSAGE | {"DelaySeconds": 1}}, "it is delayed"),
        (ConsumedQueue("q", QUEUE), {"parameters": {"MessageBody": "x" * (MAX_BYTES + 1)}}, "it is large"),
        (ConsumedQueue("q", QUEUE), {"acks_late": None}, "its task is not registered here"),
        (ConsumedQueue("q", QUEUE), {"acks_late": False}, "its task is acknowledged early"),
        (ConsumedQueue("q", QUEUE), {"is_retry": True}, "it is a retry"),
        (ConsumedQueue("q", QUEUE), {"parent": SimpleNamespace(queue=QUEUE, hops=MAX_HOPS)}, "it has too many hops"),
    ],
)
def test_a_message_goes_through_sqs_if_any_condition_is_not_met(
    consumed: ConsumedQueue | None, changes: dict[str, Any], answer: str
) -> None:
    parent = SimpleNamespace(queue=QUEUE, hops=0)
    facts: dict[str, Any] = {"parent": parent, "parameters": MESSAGE, "acks_late": True, "is_retry": False}
    assert why_not(consumed=consumed, **facts | changes) == answer


@pytest.fixture
def messages() -> HeldMessages:
    return HeldMessages()


@pytest.fixture
def queue() -> ScriptedQueue:
    return ScriptedQueue(dead_letters=ScriptedQueue("q-dlq"))


@pytest.fixture
def root(messages: HeldMessages, queue: ScriptedQueue) -> HeldMessage:
    received = {"Body": "root", "MessageId": "m1", "ReceiptHandle": "h1"}
    message = messages.add(queue, received, visibility_timeout=60)
    message.start()
    return message


def hand_off(messages: HeldMessages, parent: HeldMessage, *, start: bool = True, **parameters: Any) -> HandedOffMessage:
    child = messages.hand_off(parent.queue, parent, MESSAGE | parameters, "task-1")
    if start:
        assert child.start()
    return child


def sent(queue: Any) -> list[dict[str, Any]]:
    return [entry for batch in queue.sent for entry in batch]


def is_deleted(queue: ScriptedQueue) -> bool:
    return queue.deleted == [[{"ReceiptHandle": "h1"}]]


def test_the_root_is_deleted_after_everything_that_was_handed_off_from_it_is_settled(
    messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage, wait_until: Callable[..., None]
) -> None:
    child = hand_off(messages, root)
    root.ack()
    grandchild = hand_off(messages, child)
    sibling = hand_off(messages, child)
    for message in (child, grandchild):
        message.ack()
        assert messages.deletes.flush(0.05) == 0
        assert (queue.deleted, root in messages.held()) == ([], True)
    sibling.ack()
    wait_until(lambda: messages.held() == [])
    assert is_deleted(queue)
    assert queue.sent == []


def test_a_child_is_settled_after_sqs_has_confirmed_what_its_task_published(
    messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage, wait_until: Callable[..., None]
) -> None:
    elsewhere = ScriptedQueue("elsewhere")
    elsewhere.gate.clear()
    child = hand_off(messages, root)
    root.ack()
    child.publish(elsewhere, {"MessageBody": "grandchild"})
    child.ack()
    assert messages.deletes.flush(0.05) == 0
    assert queue.deleted == []
    elsewhere.gate.set()
    wait_until(lambda: is_deleted(queue))


def test_a_rejected_child_goes_to_its_queues_dead_letters_before_the_root_is_deleted(
    messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage, wait_until: Callable[..., None]
) -> None:
    dead_letters: Any = queue.dead_letters()
    dead_letters.gate.clear()
    child = hand_off(messages, root)
    root.ack()
    child.reject(REASON)
    assert messages.deletes.flush(0.05) == 0
    assert queue.deleted == []
    dead_letters.gate.set()
    wait_until(lambda: is_deleted(queue))
    (letter,) = sent(dead_letters)
    assert (letter["MessageBody"], letter["MessageAttributes"]["Reason"]["StringValue"]) == ("child", "NotWanted")


@pytest.mark.parametrize(
    ("end_root", "root_ends_first"),
    [(HeldMessage.ack, True), (HeldMessage.ack, False), (lambda root: root.reject(REASON), True)],
    ids=["the root ends first", "the root ends last", "the root is rejected"],
)
def test_a_root_stays_on_its_queue_if_the_dead_letter_queue_refuses_what_was_handed_off_from_it(
    messages: HeldMessages,
    root: HeldMessage,
    wait_until: Callable[..., None],
    end_root: Callable[[HeldMessage], None],
    root_ends_first: bool,
) -> None:
    queue: Any = root.queue
    dead_letters = queue.dead_letters()
    dead_letters.answers = [["QueueDoesNotExist"]]
    child = hand_off(messages, root)
    grandchild = hand_off(messages, child)
    child.ack()
    if root_ends_first:
        end_root(root)
    grandchild.reject(REASON)
    if not root_ends_first:
        wait_until(lambda: messages.held() == [root])
        end_root(root)
    wait_until(lambda: messages.held() == [])
    assert messages.deletes.flush(1) == 0
    assert queue.deleted == []
    assert [letter["MessageBody"] for letter in sent(dead_letters)] == ["child"]


def test_a_requeued_child_becomes_a_copy_on_sqs_that_keeps_its_attributes(
    messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage, wait_until: Callable[..., None]
) -> None:
    queue.gate.clear()
    attributes = {"trace": {"DataType": "String", "StringValue": "1"}}
    child = hand_off(messages, root, MessageGroupId="tenant", MessageAttributes=attributes)
    root.ack()
    child.requeue()
    assert messages.deletes.flush(0.05) == 0
    assert queue.deleted == []
    queue.gate.set()
    wait_until(lambda: is_deleted(queue))
    (copy,) = sent(queue)
    assert copy == {**MESSAGE, "DelaySeconds": 0, "MessageGroupId": "tenant", "MessageAttributes": attributes}
    assert queue.changed == []


def test_a_child_is_given_back_once(messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage) -> None:
    child = hand_off(messages, root)
    child.give_back(after=3)
    child.give_back(after=3)
    messages.sends.flush(1)
    assert [copy["DelaySeconds"] for copy in sent(queue)] == [3]


def test_a_released_child_is_published_and_its_root_is_deleted_only_after_that(
    messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage, wait_until: Callable[..., None]
) -> None:
    queue.gate.clear()
    child = hand_off(messages, root, start=False)
    root.ack()
    assert messages.release(messages.held()) == [child]
    assert not child.start()
    assert messages.deletes.flush(0.05) == 0
    assert queue.deleted == []
    queue.gate.set()
    wait_until(lambda: is_deleted(queue))
    assert sent(queue) == [{**MESSAGE, "MessageAttributes": {}}]
    assert queue.changed == [], "neither the child nor its root is visible again"


def test_a_root_becomes_a_dead_letter_if_sqs_refuses_a_released_child_for_good(
    messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage, wait_until: Callable[..., None]
) -> None:
    queue.answers = [["InvalidMessageContents"]]
    child = hand_off(messages, root, start=False)
    root.ack()
    messages.release([child])
    wait_until(lambda: is_deleted(queue))
    (letter,) = sent(queue.dead_letters())
    assert (letter["MessageBody"], letter["MessageAttributes"]["Reason"]["StringValue"]) == ("root", "ChildRefused")


def test_at_exit_a_root_is_visible_again_if_sqs_has_not_confirmed_its_released_child(
    messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage
) -> None:
    elsewhere = ScriptedQueue("elsewhere")
    elsewhere.gate.clear()
    child = messages.hand_off(elsewhere, root, MESSAGE, "task-1")
    root.ack()
    messages.release([child])
    messages.exit(flush_seconds=0.05)
    assert queue.changed == [[{"ReceiptHandle": "h1", "VisibilityTimeout": 0}]]
    assert (queue.deleted, elsewhere.changed) == ([], [])
    elsewhere.gate.set()


def test_only_the_root_is_extended_and_given_back_because_a_child_has_no_receipt(
    messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage
) -> None:
    child = hand_off(messages, root)
    for message in (root, child):
        message.extended_at -= 30
    messages._keeper.extend()
    messages.exit()
    assert queue.changed == [
        [{"ReceiptHandle": "h1", "VisibilityTimeout": seconds}] for seconds in (root.visibility_timeout, 0)
    ]


def test_only_children_that_have_not_begun_are_counted_as_waiting(messages: HeldMessages, root: HeldMessage) -> None:
    children = [hand_off(messages, root, start=False) for _ in range(3)]
    assert [messages.has_room(limit) for limit in (3, 4)] == [False, True]
    children[0].start()
    assert [messages.has_room(limit) for limit in (2, 3)] == [False, True]
    children[1].ack()
    assert [messages.has_room(limit) for limit in (1, 2)] == [False, True]


def test_hops_are_counted_from_the_root(messages: HeldMessages, root: HeldMessage) -> None:
    child = hand_off(messages, root)
    assert (root.hops, child.hops, hand_off(messages, child).hops, hand_off(messages, root).hops) == (0, 1, 2, 1)


def test_a_queue_is_known_by_its_url_because_each_channel_has_an_object_of_its_own_for_it(
    monkeypatch: pytest.MonkeyPatch, messages: HeldMessages
) -> None:
    consumed = ScriptedQueue("consumed")
    worker = Worker(monkeypatch, messages, consumed, *map(ScriptedQueue, ("raw", "backoff", "low")))
    find = worker.receiver.consumed
    assert find(ScriptedQueue("consumed").url) == ConsumedQueue("consumed", consumed)
    assert find("http://sqs/other") is None
    raw, backoff, low = (find(f"http://sqs/{name}") for name in ("raw", "backoff", "low"))
    assert raw is not None
    assert raw.is_raw
    assert backoff is not None
    assert backoff.has_backoff_policy
    assert low is not None
    assert low.priority == -1
    worker.loop.serves_worker = False
    assert find(consumed.url) is None, "only Celery's worker runs tasks"
    worker.loop.serves_worker = True
    assert receiving.consumer_of(consumed.url) is worker.receiver
    worker.receiver.stop("consumed")
    assert find(consumed.url) is None, "a worker that stops runs no more tasks"
    assert receiving.consumer_of(consumed.url) is None


def test_there_is_room_for_as_many_unbegun_children_as_the_prefetch_has_places(
    monkeypatch: pytest.MonkeyPatch, messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage
) -> None:
    worker = Worker(monkeypatch, messages, queue)
    children = []
    for number in range(3):
        consumed = worker.receiver.consumed(queue.url)
        assert consumed is not None
        assert consumed.has_room == (number < 2)
        children.append(hand_off(messages, root, start=False))
    for child in children:
        child.start()
    assert worker.receiver.consumed(queue.url) == ConsumedQueue("q", queue)


def test_a_child_takes_a_place_in_the_prefetch_so_that_its_root_keeps_one(
    monkeypatch: pytest.MonkeyPatch, messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage
) -> None:
    worker = Worker(monkeypatch, messages, queue)
    worker.prefetch.add()  # the root's place
    consumed = worker.receiver.consumed(queue.url)
    assert consumed is not None
    worker.receiver.hand_off(consumed, root, MESSAGE, "task-1")
    worker.deliver()
    assert len(worker.delivered) == 1
    assert worker.prefetch._held == 2
    worker.prefetch.free(1)  # the root is acknowledged
    assert worker.receiver.release(queue)
    assert worker.prefetch._held == 0


def test_a_released_child_is_published_as_it_was_whatever_the_worker_did_to_what_it_decoded(
    monkeypatch: pytest.MonkeyPatch, messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage
) -> None:
    worker = Worker(monkeypatch, messages, queue)
    consumed = worker.receiver.consumed(queue.url)
    assert consumed is not None
    worker.receiver.hand_off(consumed, root, MESSAGE, "task-1")
    worker.deliver()
    (payload,) = worker.delivered
    payload["headers"].clear()
    payload["properties"]["delivery_info"]["sqs_message"].clear()
    worker.receiver.release(queue)
    messages.sends.flush(1)
    assert sent(queue) == [{**MESSAGE, "MessageAttributes": {}}]


def test_a_child_that_is_handed_off_while_the_worker_stops_is_published(
    monkeypatch: pytest.MonkeyPatch, messages: HeldMessages, queue: ScriptedQueue, root: HeldMessage
) -> None:
    worker = Worker(monkeypatch, messages, queue)
    consumed = worker.receiver.consumed(queue.url)
    assert consumed is not None
    worker.receiver.stop(consumed.name)
    worker.receiver.hand_off(consumed, root, MESSAGE, "task-1")
    messages.sends.flush(1)
    assert sent(queue) == [{**MESSAGE, "MessageAttributes": {}}]
    assert worker.delivered == []
