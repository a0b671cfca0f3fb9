"""Replies to remote commands, if their callers have disappeared or SQS refuses them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from celery_sqs import replies
from celery_sqs.log import OnceAMinute
from celery_sqs.replies import ReplySender

if TYPE_CHECKING:
    from collections.abc import Callable

EXCHANGE = "reply.celery.pidbox"


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}}, "SendMessage")


class Queues:
    """Raises the error that is set for a caller, and records the replies to the others."""

    def __init__(self, **errors: Exception) -> None:
        self.errors = errors
        self.sent: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def reply(self, exchange: str, routing_key: str, body: str) -> None:
        self.gate.wait(60)
        if error := self.errors.get(routing_key):
            raise error
        self.sent.append(body)


@pytest.fixture(autouse=True)
def _complaints_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "complain", OnceAMinute(replies.logger))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (refusal("AWS.SimpleQueueService.NonExistentQueue"), "its caller is gone"),
        (refusal("AccessDenied"), "SQS answered AccessDenied"),
        (refusal("RequestThrottled"), "SQS answered RequestThrottled"),
        (EndpointConnectionError(endpoint_url="http://sqs"), "SQS cannot be reached (EndpointConnectionError)"),
        (RuntimeError("a defect"), "dropped a reply"),
    ],
    ids=["gone", "denied", "throttled", "unreachable", "defect"],
)
def test_a_reply_that_cannot_be_delivered_is_dropped_with_one_line_and_the_next_one_is_sent(
    error: Exception, line: str, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    caplog.set_level("INFO")
    queues: Any = Queues(gone=error)
    sender = ReplySender(queues)
    sender.add(EXCHANGE, "gone", "to nobody")
    sender.add(EXCHANGE, "there", "pong")
    wait_until(lambda: queues.sent == ["pong"])
    assert [line in record.getMessage() for record in caplog.records] == [True]


def test_whoever_replies_waits_for_nothing_and_what_waits_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(replies, "CAPACITY", 5)
    queues: Any = Queues()
    queues.gate.clear()
    sender = ReplySender(queues)
    for number in range(20):
        sender.add(EXCHANGE, "there", str(number))
    assert "5 others wait" in caplog.text
    queues.gate.set()
    sender.exit()
    assert 5 <= len(queues.sent) <= 6
