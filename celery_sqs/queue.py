"""One SQS queue, as the transport uses it: receive, and settle what was received."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from kombu.log import get_logger

from celery_sqs.dead_letters import with_reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.dead_letters import Reason

logger = get_logger(__name__)

NO_SUCH_QUEUE = frozenset({"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue"})

# A receipt handle is stale once the message was received again, or deleted. AWS answers a second DeleteMessage with
# 200 and a stale handle with InvalidParameterValue; emulators answer both with ReceiptHandleIsInvalid.
STALE_HANDLE = frozenset({"InvalidParameterValue", "MessageNotInflight", "ReceiptHandleIsInvalid"})

# A dead-letter queue that is added to a live queue is noticed within this time.
REDRIVE_POLICY_SECONDS = 300

ReceivedMessage = dict[str, Any]  # as boto3's receive_message has it


class Queue:
    """`client` is asked for every request, since STS credentials expire. Methods raise botocore's errors."""

    def __init__(self, name: str, url: str, client: Callable[[], Any]) -> None:
        self.name = name
        self.url = url
        self._client = client
        self._dead_letter_url: str | None = None
        self._redrive_policy_read_at = float("-inf")

    def receive(self, count: int, wait_seconds: int) -> list[ReceivedMessage]:
        """Up to `count` messages, at most 10, with every attribute: a dead letter keeps what its producer set."""
        answer = self._client().receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=wait_seconds,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        messages: list[ReceivedMessage] = answer.get("Messages", [])
        return messages

    def delete(self, message: ReceivedMessage) -> None:
        """Delete the message. Where its handle is stale it is gone, or another's: nothing to do."""
        try:
            self._client().delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
        except ClientError as error:
            self._check_stale(error, message)

    def make_visible(self, message: ReceivedMessage, after: int = 0) -> None:
        """Let the message be received again after so many seconds."""
        try:
            self._client().change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=after
            )
        except ClientError as error:
            self._check_stale(error, message)

    def delay(self, message: ReceivedMessage, seconds: int) -> None:
        """Replace the message by a delayed copy: SQS has confirmed the copy before the original goes."""
        attributes = message.get("MessageAttributes", {})
        self._send(self.url, message, MessageAttributes=attributes, DelaySeconds=seconds)
        self.delete(message)

    def dead_letter(self, message: ReceivedMessage, reason: Reason) -> None:
        """Move the message to the dead-letter queue. Where there is none, delete it and say so.

        What cannot be moved stays: SQS delivers it again, and it is rejected again.
        """
        try:
            if url := self._find_dead_letter_url():
                attributes = with_reason(message["Body"], message.get("MessageAttributes", {}), reason)
                self._send(url, message, MessageAttributes=attributes)
            else:
                text = "dropped message %s of %s, which has no dead-letter queue: %s (%s)"
                logger.warning(text, message["MessageId"], self.name, reason.code, reason.detail)
            self.delete(message)
        except (BotoCoreError, ClientError) as error:
            logger.error("cannot dead-letter message %s of %s: %s", message["MessageId"], self.name, error)

    def _find_dead_letter_url(self) -> str | None:
        now = time.monotonic()
        if now - self._redrive_policy_read_at > REDRIVE_POLICY_SECONDS:
            answer = self._client().get_queue_attributes(QueueUrl=self.url, AttributeNames=["RedrivePolicy"])
            self._dead_letter_url = None
            if policy := answer.get("Attributes", {}).get("RedrivePolicy"):
                *_, account, name = json.loads(policy)["deadLetterTargetArn"].split(":")
                answer = self._client().get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
                self._dead_letter_url = answer["QueueUrl"]
            self._redrive_policy_read_at = now
        return self._dead_letter_url

    def _send(self, url: str, message: ReceivedMessage, **options: Any) -> None:
        if group := message.get("Attributes", {}).get("MessageGroupId"):
            options["MessageGroupId"] = group
        if url.endswith(".fifo"):
            options["MessageDeduplicationId"] = message["MessageId"]
        self._client().send_message(QueueUrl=url, MessageBody=message["Body"], **options)

    def _check_stale(self, error: ClientError, message: ReceivedMessage) -> None:
        if error.response["Error"]["Code"] not in STALE_HANDLE:
            raise error
        logger.info("message %s of %s was received again, or is gone", message["MessageId"], self.name)
