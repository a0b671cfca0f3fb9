from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from settings.model import dead_letter_queue
from tests.support.sqs import message_counts

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from settings import Settings


def context(seconds: float = 60) -> Any:
    """Return the context that Lambda passes, with so many seconds left."""
    return SimpleNamespace(aws_request_id="request-1", get_remaining_time_in_millis=lambda: int(seconds * 1000))


def record(message: dict[str, Any], queue: str) -> dict[str, Any]:
    """Convert a message from boto3's form to the one in which Lambda's event source mapping delivers it."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: {
                "stringValue": value.get("StringValue"),
                "binaryValue": base64.b64encode(value["BinaryValue"]).decode() if "BinaryValue" in value else None,
                "dataType": value["DataType"],
            }
            for name, value in message.get("MessageAttributes", {}).items()
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": f"arn:aws:sqs:us-east-1:000000000000:{queue}",
    }


class Mapping:
    """Does what Lambda's event source mapping of a queue does with one event."""

    def __init__(self, sqs: SQSClient, queue: str) -> None:
        self._sqs = sqs
        self.queue = queue
        self.url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        self._kept: list[Any] = []

    def send(self, *bodies: str, **parameters: Any) -> list[str]:
        """Put bodies on the queue. Return their MessageIds."""
        return [
            self._sqs.send_message(QueueUrl=self.url, MessageBody=body, **parameters)["MessageId"] for body in bodies
        ]

    def receive(self) -> list[Any]:
        answer = self._sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        return [dict(message) for message in answer.get("Messages", [])]

    def events(self) -> list[dict[str, Any]]:
        """Return the messages on the queue, as events with one message each."""
        return [{"Records": [record(message, self.queue)]} for message in self.receive()]

    def invoke(self, function: Any, seconds: float = 60) -> list[str]:
        """Call the function with the messages on the queue, and delete those it settled. Return the other ids."""
        messages = self.receive()
        answer = function({"Records": [record(message, self.queue) for message in messages]}, context(seconds))
        back = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
        for message in messages:
            if message["MessageId"] in back:
                self._kept.append(message)
            else:
                self._sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        return back

    def come_back(self) -> None:
        """End the visibility time-out of the messages that were not settled."""
        for message in self._kept:
            self._sqs.change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )
        self._kept.clear()

    def dead_letters(self) -> list[Any]:
        return Mapping(self._sqs, dead_letter_queue(self.queue)).receive()

    def delayed(self) -> int:
        """Return how many messages of the queue are delayed."""
        _, _, delayed = message_counts(self._sqs, self.url)
        return delayed


@pytest.fixture
def mapping(sqs: SQSClient, settings: Settings) -> Mapping:
    return Mapping(sqs, settings.queue)


@pytest.fixture
def fifo(sqs: SQSClient, settings: Settings) -> Mapping:
    """Return the mapping of a FIFO queue."""
    for name in (f"{settings.queue}.fifo", f"{settings.queue}_dlq.fifo"):
        sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true", "ContentBasedDeduplication": "true"})
    return Mapping(sqs, f"{settings.queue}.fifo")
