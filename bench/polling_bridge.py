"""The obvious way from the raw queue to a task queue: a process that polls one and starts tasks on the other.

What people write who have no transport that reads raw bodies. The stock Celery app and the dramatiq app need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emails.message import parse_message
from emails.raw_queue import find_raw_queue
from settings import get_settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_SECONDS = 5  # below the client's read time-out


def poll(start: Callable[[str], object]) -> None:
    """Start the job of every message of the raw queue, for ever."""
    settings = get_settings()
    sqs = client("sqs", settings)
    queue = find_raw_queue(settings)
    request: Any = {"QueueUrl": queue.url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": WAIT_SECONDS}
    while True:
        for message in sqs.receive_message(**request).get("Messages", []):
            start(parse_message(message["Body"]))
            sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"])
