"""The requests to one SQS queue, in batches if SQS has a batch action."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError

from celery_sqs.sqs.batches import entry_codes, numbered
from celery_sqs.sqs.errors import ACCESS_DENIED, FINAL_FOR_SEND, NO_SUCH_QUEUE, code_of

if TYPE_CHECKING:
    from collections.abc import Callable

# If a dead-letter queue is added while workers run, they notice it within this time.
REDRIVE_POLICY_SECONDS = 300

ReceivedMessage = dict[str, Any]  # in the form that boto3's receive_message returns


class Depths(NamedTuple):
    """How many messages a queue has. SQS's figures are approximate."""

    ready: int
    in_flight: int
    delayed: int


class Queue:
    """An SQS queue. Its methods raise botocore's errors.

    `client` is called for every request, because STS credentials expire. `is_own` returns whether this worker's tasks
    depend on sending to the queue, and is called when SQS denies a send.
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
        """Whether a send with this error code must not be retried.

        If SQS denies access to one of the worker's own queues, it is retried, because access should be allowed again.
        """
        return code in FINAL_FOR_SEND or (code in ACCESS_DENIED and not self.is_own())

    def receive(self, count: int, wait_seconds: int, visibility_timeout: int) -> list[ReceivedMessage]:
        """Receive up to `count` messages, at most 10, with all attributes, so that a dead letter can keep them."""
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
        """Return the parameters that send a copy of the message to this queue, with these message attributes."""
        parameters: dict[str, Any] = {"MessageBody": message["Body"], "MessageAttributes": attributes}
        if group := message.get("Attributes", {}).get("MessageGroupId"):  # messages on fair queues have one, too
            parameters["MessageGroupId"] = group
        if self.is_fifo:
            # The producer's deduplication id is not reused: within five minutes SQS would confirm the copy and drop it.
            parameters["MessageDeduplicationId"] = message["MessageId"]
        return parameters

    def send(self, parameters: dict[str, Any]) -> None:
        """Send one message, and wait for SQS's confirmation."""
        self._client().send_message(QueueUrl=self.url, **parameters)

    def send_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        """Send up to 10 messages with 1 MiB in all. Return the error code of each, or "" if SQS confirmed it."""
        answer = self._client().send_message_batch(QueueUrl=self.url, Entries=numbered(batch))
        return entry_codes(batch, answer)

    def delete_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        """Delete up to 10 messages by ReceiptHandle. Return the error code of each, or "" for success."""
        answer = self._client().delete_message_batch(QueueUrl=self.url, Entries=numbered(batch))
        return entry_codes(batch, answer)

    def change_visibility_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        """Set the VisibilityTimeout of up to 10 messages by ReceiptHandle. Return the error code of each, or ""."""
        answer = self._client().change_message_visibility_batch(QueueUrl=self.url, Entries=numbered(batch))
        return entry_codes(batch, answer)

    def attributes(self, *names: str) -> dict[str, str]:
        """Return those of the named attributes that the queue has."""
        answer = self._client().get_queue_attributes(QueueUrl=self.url, AttributeNames=list(names))
        attributes: dict[str, str] = answer.get("Attributes", {})
        return attributes

    def depths(self) -> Depths:
        """Return how many messages are ready, in flight, and delayed."""
        names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
        found = self.attributes(*names)
        return Depths(*(int(found[name]) for name in names))

    def dead_letters(self) -> Queue | None:
        """Return the queue's dead-letter queue, or None if it has no redrive policy. It is cached for five minutes."""
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
    """Return the URL of the queue, or None if there is no such queue."""
    try:
        url: str = client.get_queue_url(QueueName=name)["QueueUrl"]
    except ClientError as error:
        if code_of(error) in NO_SUCH_QUEUE:
            return None
        raise
    return url
