"""The same job with nothing but boto3, which shows the least that it can cost: `python -m bench.floor`.

Each thread receives ten messages, processes each of them, and deletes the ten. There is no task queue, no retry, no
batching across threads, and nothing that keeps a message invisible. Settings come from the environment, as for the
service.
"""

from __future__ import annotations

import threading
from typing import Any

from emails.message import parse_message
from emails.raw_queue import find_raw_queue
from emails.sender import Sender
from settings import get_settings
from settings.aws import client

WAIT_SECONDS = 5  # less than the client's read timeout

settings = get_settings()
sqs = client("sqs", settings)
queue = find_raw_queue(settings)
request: Any = {"QueueUrl": queue.url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": WAIT_SECONDS}
sender = Sender.from_settings(settings)


def work() -> None:
    while True:
        messages = sqs.receive_message(**request).get("Messages", [])
        for message in messages:
            email_id = parse_message(message["Body"])
            sender.load(email_id)
            sender.send(email_id)
        if messages:
            sqs.delete_message_batch(
                QueueUrl=queue.url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )


if __name__ == "__main__":
    threads = [threading.Thread(target=work) for _ in range(settings.concurrency)]
    for thread in threads:
        thread.start()
