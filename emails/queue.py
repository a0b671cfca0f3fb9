"""The raw queue."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery_sqs.sqs.batches import pack, until_confirmed
from emails.resources import find_queue
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from settings import Settings


class RawQueue:
    """The queue that producers send to, or the one for bulk."""

    def __init__(self, settings: Settings, *, bulk: bool = False) -> None:
        """Look the queue up.

        Raises:
            ResourcesMissing
        """
        self._sqs = client("sqs", settings)
        self._queue = find_queue(self._sqs, settings.bulk_queue if bulk else settings.queue)
        self.name, self.url = self._queue.name, self._queue.url

    def enqueue(self, email_ids: Iterable[str], sent: Callable[[int], object]) -> dict[str, str]:
        """Send one raw message an id, in batches; `sent` hears how many went.

        Returns the ids that SQS did not take after several attempts, each with SQS's error code.
        """
        failed: dict[str, str] = {}
        entries = (self._entry(email_id) for email_id in email_ids)
        for batch in pack(entries, size=lambda entry: len(entry["MessageBody"].encode())):
            codes = until_confirmed(self._queue.send_batch, batch)
            errors = [(entry, code) for entry, code in zip(batch, codes, strict=True) if code]
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
