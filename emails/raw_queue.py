"""Finds the raw queue, and sends emails' ids to it."""

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

    from celery_sqs.sqs.queue import Queue
    from settings import Settings


def find_raw_queue(settings: Settings, *, bulk: bool = False) -> Queue:
    """Return the queue that producers send to, or the one for bulk email.

    Raises:
        ResourcesMissing: the queue does not exist.
    """
    return find_queue(client("sqs", settings), settings.bulk_queue if bulk else settings.queue)


def enqueue_ids(
    queue: Queue, email_ids: Iterable[str], sent: Callable[[int], object] = lambda count: count
) -> dict[str, str]:
    """Send one raw message for each id, in batches. `sent` is called with the number that each batch has sent.

    Returns the ids that SQS did not take after several attempts, each with SQS's error code.
    """
    failed: dict[str, str] = {}
    entries = (_entry(email_id, is_fifo=queue.is_fifo) for email_id in email_ids)
    for batch in pack(entries, size=lambda entry: len(entry["MessageBody"].encode())):
        codes = until_confirmed(queue.send_batch, batch)
        errors = [(entry, code) for entry, code in zip(batch, codes, strict=True) if code]
        failed |= {json.loads(entry["MessageBody"])["email_id"]: code for entry, code in errors}
        sent(len(batch) - len(errors))
    return failed


def _entry(email_id: str, *, is_fifo: bool) -> dict[str, Any]:
    entry = {"MessageBody": json.dumps({"email_id": email_id})}
    if is_fifo:  # every email is a group of its own, so that emails do not wait for one another
        entry |= {"MessageGroupId": sha256(email_id.encode()).hexdigest(), "MessageDeduplicationId": uuid4().hex}
    return entry
