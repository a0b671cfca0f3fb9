"""The raw queue and the dead letters."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from botocore.exceptions import BotoCoreError, ClientError

from celery_sqs.batches import numbered, outcomes, pack
from emails.backoff import full_jitter
from emails.resources import ResourcesMissing, queue_url
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from mypy_boto3_sqs import SQSClient

    from settings import Settings

ATTEMPTS = 5
MAX_RECEIVES_REASON = "MaxReceives"  # SQS moved the message itself, and SQS gives no reason


@dataclass(frozen=True)
class DeadLetter:
    """A message nobody could use. The body may be private."""

    queue: str
    message_id: str
    reason: str
    detail: str
    body: str = field(repr=False)
    attributes: dict[str, str] = field(repr=False)


class RawQueue:
    """The queue that producers send to, or the one for bulk."""

    def __init__(self, sqs: SQSClient, settings: Settings, *, bulk: bool = False) -> None:
        self._sqs = sqs
        self.name = settings.bulk_queue if bulk else settings.queue
        url = queue_url(sqs, self.name)
        if url is None:
            msg = f"There is no queue {self.name}: make it with `make provision` (email-service provision)."
            raise ResourcesMissing(msg)
        self.url = url

    def enqueue(self, email_ids: Iterable[str], sent: Callable[[int], object]) -> dict[str, str]:
        """Send one raw message an id, in batches; `sent` hears how many went.

        Returns the ids that SQS did not take after several attempts, each with SQS's error code.
        """
        failed: dict[str, str] = {}
        entries = (self._entry(email_id) for email_id in email_ids)
        for batch in pack(entries, size=lambda entry: len(entry["MessageBody"].encode())):
            errors = self._send(batch)
            failed |= {json.loads(entry["MessageBody"])["email_id"]: code for entry, code in errors}
            sent(len(batch) - len(errors))
        return failed

    def _entry(self, email_id: str) -> dict[str, Any]:
        entry = {"MessageBody": json.dumps({"email_id": email_id})}
        if self.url.endswith(".fifo"):  # one group an email: they need not wait for one another
            entry |= {"MessageGroupId": sha256(email_id.encode()).hexdigest(), "MessageDeduplicationId": uuid4().hex}
        return entry

    def receive(self, count: int, wait: int = 0) -> list[dict[str, Any]]:
        """Up to `count` messages of the raw queue. Give them back with `release`."""
        answer = self._sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=count, WaitTimeSeconds=wait)
        return [dict(message) for message in answer.get("Messages", [])]

    def release(self, messages: list[dict[str, Any]]) -> None:
        """Make received messages visible again."""
        for message in messages:
            self._sqs.change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
            )

    def _send(self, batch: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
        """Send a batch, and what failed of it again. Returns what failed to the last, with the error's code."""
        pending = [(entry, "") for entry in batch]
        for attempt in range(1, ATTEMPTS + 1):
            entries = [entry for entry, _ in pending]
            try:
                answer = self._sqs.send_message_batch(QueueUrl=self.url, Entries=numbered(entries))  # type: ignore[arg-type]  # entries of its TypedDict
                pending = [(entry, code) for entry, code in outcomes(entries, dict(answer)) if code]
            except (BotoCoreError, ClientError) as error:
                pending = [(entry, type(error).__name__) for entry in entries]
            if not pending or attempt == ATTEMPTS:
                break
            time.sleep(full_jitter(attempt, first=0.1, longest=5))
        return pending


def dead_letters(sqs: SQSClient, settings: Settings) -> Iterator[DeadLetter]:
    """What lies in the dead-letter queues now; every message stays there, and is visible again at the end."""
    for queue in settings.queues:
        name = dead_letter_queue(queue)
        url = queue_url(sqs, name)
        if url is None:
            continue
        held = []
        while messages := sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=60
        ).get("Messages"):
            held += messages
        for message in held:
            attributes = {
                key: value.get("StringValue", "") for key, value in message.get("MessageAttributes", {}).items()
            }
            yield DeadLetter(
                queue=name,
                message_id=message["MessageId"],
                reason=attributes.get("Reason", MAX_RECEIVES_REASON),
                detail=attributes.get("Detail", "received too often: it may stop workers"),
                body=message["Body"],
                attributes=attributes,
            )
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
