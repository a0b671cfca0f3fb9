from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError

from celery_sqs.held_message import HeldMessage
from celery_sqs.held_messages import HeldMessages
from celery_sqs.visibility import MAX_INVISIBLE_SECONDS, VisibilityKeeper
from tests.celery_sqs.doubles import ScriptedQueue

if TYPE_CHECKING:
    from celery_sqs.sqs.queue import Queue


def held(queue: Queue, number: int, age: float) -> HeldMessage:
    """Return a held message with a time-out of 60 seconds that was last extended so many seconds ago."""
    received: dict[str, Any] = {"Body": "", "MessageId": f"m{number}", "ReceiptHandle": f"h{number}"}
    message = HeldMessage(HeldMessages(), queue, received, 60)
    message.extended_at -= age
    return message


def test_it_extends_in_batches_what_has_spent_a_third_of_its_time_out() -> None:
    queue = ScriptedQueue()
    messages = [held(queue, number, age=25) for number in range(12)] + [held(queue, 99, age=10)]
    VisibilityKeeper(lambda: messages).extend()
    assert [len(batch) for batch in queue.changed] == [10, 2]
    assert {entry["VisibilityTimeout"] for batch in queue.changed for entry in batch} == {60}
    VisibilityKeeper(lambda: messages).extend()
    assert len(queue.changed) == 2, "they have been extended"


def test_a_message_whose_handle_is_stale_is_known_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    queue = ScriptedQueue()
    queue.answers = [["", "ReceiptHandleIsInvalid"]]
    messages = [held(queue, 1, age=30), held(queue, 2, age=30)]
    keeper = VisibilityKeeper(lambda: messages)
    keeper.extend()
    assert [message.lost for message in messages] == [False, True]
    assert "this worker no longer holds message m2 of q" in caplog.text
    keeper.extend()
    assert len(queue.changed) == 1


@pytest.mark.parametrize("answer", [["InternalError"], EndpointConnectionError(endpoint_url="http://sqs")], ids=str)
def test_what_fails_for_now_is_extended_at_the_next_look(answer: Any) -> None:
    queue = ScriptedQueue()
    queue.answers = [answer]
    message = held(queue, 1, age=30)
    keeper = VisibilityKeeper(lambda: [message])
    keeper.extend()
    assert not message.lost
    keeper.extend()
    assert len(queue.changed) == 2


def test_after_twelve_hours_it_says_that_it_can_keep_a_message_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    queue = ScriptedQueue()
    message = held(queue, 1, age=30)
    message.received_at -= MAX_INVISIBLE_SECONDS - 30
    VisibilityKeeper(lambda: [message]).extend()
    assert queue.changed == []
    assert "message m1 of q has been held for 12 hours" in caplog.text
