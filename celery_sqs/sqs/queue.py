"""One SQS queue: its requests, in batches where SQS has them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from celery_sqs.sqs.batches import entry_codes, numbered
from celery_sqs.sqs.errors import ACCESS_DENIED, FINAL_FOR_SEND, NO_SUCH_QUEUE, code_of

if TYPE_CHECKING:
    from collections.abc import Callable

# A dead-letter queue that is added to a live queue is noticed within this time.
REDRIVE_POLICY_SECONDS = 300

ReceivedMessage = dict[str, Any]  # as boto3's receive_message has it


class Depths(NamedTuple):
    """How many messages a queue has, as approximate as SQS's figures."""

    ready: int
    in_flight: int
    delayed: int


class Queue:
    """`client` is asked for every request, since STS credentials expire. Methods raise botocore's errors.

    `is_own` says whether this worker's tasks depend on sending to it; it is asked when SQS denies a send.
    """

    def __init__(
        self, name: str, url: str, client: Callable[[], Any], is_own: Callable[[], bool] = lambda: False
    ) -> None:
        self.name = name
        self.url = url
        self.is_own = is_own
        self._client = client
        self._dead_letters: Queue | None = None
        self._redrive_policy_read_at = float("-inf")

    @property
    def is_fifo(self) -> bool:
        return self.url.endswith(".fifo")

    def is_final_for_send(self, code: str) -> bool:
        """Whether SQS refuses a message for good. What it denies of the worker's own queues will be allowed again."""
        return code in FINAL_FOR_SEND or (code in ACCESS_DENIED and not self.is_own())

    def receive(self, count: int, wait_seconds: int, visibility_timeout: int) -> list[ReceivedMessage]:
        """Up to `count` messages, at most 10, with every attribute: a dead letter keeps what its producer set."""
        answer = self._client().receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=wait_seconds,
            VisibilityTimeout=visibility_timeout,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        messages: list[ReceivedMessage] = answer.get("Messages", [])
        return messages

    def copy_of(self, message: ReceivedMessage, attributes: dict[str, Any]) -> dict[str, Any]:
        """What to send here for a copy of the message, with these message attributes."""
        parameters: dict[str, Any] = {"MessageBody": message["Body"], "MessageAttributes": attributes}
        if group := message.get("Attributes", {}).get("MessageGroupId"):  # of a fair queue's message, too
            parameters["MessageGroupId"] = group
        if self.is_fifo:
            # Not the producer's: within five minutes of its own, SQS would confirm the copy and drop it.
            parameters["MessageDeduplicationId"] = message["MessageId"]
        return parameters

    def send(self, parameters: dict[str, Any]) -> None:
        """Send one message, and wait for SQS's confirmation."""
        self._client().send_message(QueueUrl=self.url, **parameters)

    def send_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        """Send up to 10 messages, 1 MiB in all. Returns each one's error code, "" where SQS confirmed it."""
        answer = self._client().send_message_batch(QueueUrl=self.url, Entries=numbered(batch))
        return entry_codes(batch, answer)

    def delete_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        """Delete up to 10 messages by ReceiptHandle. Returns each one's error code."""
        answer = self._client().delete_message_batch(QueueUrl=self.url, Entries=numbered(batch))
        return entry_codes(batch, answer)

    def change_visibility_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        """Set the VisibilityTimeout of up to 10 messages by ReceiptHandle. Returns each one's error code."""
        answer = self._client().change_message_visibility_batch(QueueUrl=self.url, Entries=numbered(batch))
        return entry_codes(batch, answer)

    def attributes(self, *names: str) -> dict[str, str]:
        """Those of the queue's attributes that it has."""
        answer = self._client().get_queue_attributes(QueueUrl=self.url, AttributeNames=list(names))
        attributes: dict[str, str] = answer.get("Attributes", {})
        return attributes

    def depths(self) -> Depths:
        """How many messages wait, are with somebody, or wait for a time of their own."""
        names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
        found = self.attributes(*names)
        return Depths(*(int(found[name]) for name in names))

    def dead_letters(self) -> Queue | None:
        """The queue's dead-letter queue, or None where it has no redrive policy; remembered for five minutes."""
        now = time.monotonic()
        if now - self._redrive_policy_read_at > REDRIVE_POLICY_SECONDS:
            policy = self.attributes("RedrivePolicy").get("RedrivePolicy")
            self._dead_letters = None
            if policy:
                *_, account, name = json.loads(policy)["deadLetterTargetArn"].split(":")
                url = self._client().get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
                self._dead_letters = Queue(name, url, self._client)
            self._redrive_policy_read_at = now
        return self._dead_letters


def queue_url(client: Any, name: str) -> str | None:
    """The queue's URL, or None where there is no such queue."""
    try:
        url: str = client.get_queue_url(QueueName=name)["QueueUrl"]
    except ClientError as error:
        if code_of(error) in NO_SUCH_QUEUE:
            return None
        raise
    return url
