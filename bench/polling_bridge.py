"""The obvious way from the raw queue to a task queue: a process that polls one and starts tasks on the other.

People write this if their transport cannot read raw bodies. The stock Celery app and the dramatiq app need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emails.message import parse_message
from emails.raw_queue import find_raw_queue
from settings import get_settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_SECONDS = 5  # less than the client's read timeout


def poll(start: Callable[[str], object]) -> None:
    """Start the job for every message on the raw queue. This never returns."""
    settings = get_settings()
    sqs = client("sqs", settings)
    queue = find_raw_queue(settings)
    request: Any = {"QueueUrl": queue.url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": WAIT_SECONDS}
    while True:
        for message in sqs.receive_message(**request).get("Messages", []):
            start(parse_message(message["Body"]))
            sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"])
