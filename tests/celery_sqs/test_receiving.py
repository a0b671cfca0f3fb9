"""What a receiver gives back when a person pauses its queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_sqs import receiving
from celery_sqs.held_message import State
from celery_sqs.held_messages import HeldMessages
from celery_sqs.poller import PausedQueues
from celery_sqs.receiving import Receiver, pause_queues
from tests.celery_sqs.doubles import ScriptedQueue, Worker

if TYPE_CHECKING:
    from celery_sqs.held_message import HeldMessage


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> PausedQueues:
    """The paused queues of this test, in which only its own receivers take part."""
    paused = PausedQueues()
    monkeypatch.setattr(receiving, "paused_queues", paused)
    monkeypatch.setattr(receiving, "_receivers", set())
    return paused


@pytest.fixture
def messages() -> HeldMessages:
    return HeldMessages()


@pytest.fixture
def emails() -> ScriptedQueue:
    return ScriptedQueue("emails")


@pytest.fixture
def callbacks() -> ScriptedQueue:
    return ScriptedQueue("callbacks")


@pytest.fixture
def worker(
    monkeypatch: pytest.MonkeyPatch,
    paused: PausedQueues,
    messages: HeldMessages,
    emails: ScriptedQueue,
    callbacks: ScriptedQueue,
) -> Worker:
    return Worker(monkeypatch, messages, emails, callbacks)


def receive(worker: Worker, queue: ScriptedQueue, *handles: str) -> list[HeldMessage]:
    """Let the worker receive these messages, as a poller does."""
    for _ in handles:
        worker.prefetch.add()
    received = [{"MessageId": handle, "ReceiptHandle": handle, "Body": "{}"} for handle in handles]
    worker.receiver._accept(queue.name, queue, received)
    found = [worker.messages.get(handle) for handle in handles]
    return [held for held in found if held]


def given_back(queue: ScriptedQueue) -> list[str]:
    """Return the messages that the worker has made visible."""
    entries = [entry for batch in queue.changed for entry in batch]
    assert all(entry["VisibilityTimeout"] == 0 for entry in entries)
    return [entry["ReceiptHandle"] for entry in entries]


def test_a_pause_gives_back_what_the_paused_queue_brought_and_nothing_of_other_queues(
    worker: Worker, emails: ScriptedQueue, callbacks: ScriptedQueue
) -> None:
    receive(worker, emails, "e1", "e2")
    receive(worker, callbacks, "c1")
    for _ in range(3):
        worker.deliver()
    assert pause_queues(["emails"]) == 2
    assert (given_back(emails), given_back(callbacks)) == (["e1", "e2"], [])
    assert worker.prefetch._held == 1, "the places of the two can be used again"


def test_a_pause_leaves_alone_what_has_begun(worker: Worker, emails: ScriptedQueue) -> None:
    begun, _ = receive(worker, emails, "begun", "unbegun")
    for _ in range(2):
        worker.deliver()
    assert begun.start()
    assert pause_queues(["emails"]) == 1
    assert given_back(emails) == ["unbegun"]
    assert begun.state is State.RUNNING


def test_a_pause_leaves_alone_what_a_running_task_has_handed_off_so_that_its_email_is_finished(
    worker: Worker, emails: ScriptedQueue
) -> None:
    (root,) = receive(worker, emails, "root")
    worker.deliver()
    assert root.start()
    consumed = worker.receiver.consumed(emails.url)
    assert consumed
    worker.receiver.hand_off(consumed, root, {"MessageBody": "{}"}, "task-1")
    worker.deliver()
    assert pause_queues(["emails"]) == 0
    (child,) = worker.messages._handed_off.values()
    assert child.start()
    assert (given_back(emails), emails.sent) == ([], [])


def test_a_message_that_the_consumer_has_not_seen_yet_is_given_back_and_not_delivered(
    worker: Worker, emails: ScriptedQueue
) -> None:
    receive(worker, emails, "e1")
    assert pause_queues(["emails"]) == 1
    worker.deliver()
    assert (worker.delivered, given_back(emails), worker.prefetch._held) == ([], ["e1"], 0)


def test_a_message_that_arrived_just_before_the_pause_is_given_back_when_the_pause_is_applied_again(
    worker: Worker, emails: ScriptedQueue
) -> None:
    assert pause_queues(["emails"]) == 0
    receive(worker, emails, "late")
    assert pause_queues(["emails"]) == 1
    assert given_back(emails) == ["late"]
    assert pause_queues(["emails"]) == 0


def test_no_queue_is_released_after_a_resume(worker: Worker, emails: ScriptedQueue, paused: PausedQueues) -> None:
    pause_queues(["emails"])
    receive(worker, emails, "e1")
    assert pause_queues([]) == 0
    assert "emails" not in paused
    assert given_back(emails) == []


def test_a_pause_applies_to_the_receivers_of_all_channels_before_any_gives_back(
    monkeypatch: pytest.MonkeyPatch, messages: HeldMessages, paused: PausedQueues
) -> None:
    """If a message was given back while its queue was not yet paused, this process could receive it again."""
    workers = [Worker(monkeypatch, messages, ScriptedQueue("emails")) for _ in range(2)]
    release, was_paused = Receiver.release_paused, list[bool]()

    def note(self: Receiver) -> int:
        was_paused.append("emails" in paused)
        return release(self)

    monkeypatch.setattr(Receiver, "release_paused", note)
    for number, worker in enumerate(workers):
        receive(worker, worker.queues[0], f"e{number}")
    assert pause_queues(["emails"]) == 2
    assert was_paused == [True, True]
