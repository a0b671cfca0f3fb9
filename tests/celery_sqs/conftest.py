"""Workers of the test app, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from celery import Celery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_sqs import SQSClient


class Queues:
    """The test app's queues, its journal, and workers to start."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint = endpoint
        self.folder = folder
        self.prefix = f"q{uuid.uuid4().hex[:10]}-"
        self.journal = folder / "journal"
        self.journal.touch()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.program = [sys.executable, "-m", "celery"]
        self.sqs: SQSClient = boto3.client(
            "sqs",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        for name in ("tasks", "raw"):
            self.create_queue(name)
        self.app = Celery("producer", broker=self.broker_url())
        self.app.conf.update(
            broker_transport="celery_sqs.transport:Transport",
            broker_transport_options={"region": "us-east-1", "is_secure": False, "queue_name_prefix": self.prefix},
            task_default_queue="tasks",
        )

    def broker_url(self, endpoint: str = "") -> str:
        return f"sqs://test:test@{urlsplit(endpoint or self.endpoint).netloc}"

    def create_queue(self, name: str, *, dead_letters: bool = True, **attributes: str) -> str:
        base, dot, fifo = f"{self.prefix}{name}".partition(".")
        if dead_letters:
            url = self.sqs.create_queue(QueueName=f"{base}-dlq{dot}{fifo}", Attributes=attributes)["QueueUrl"]
            arn = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 50})
        return self.sqs.create_queue(QueueName=f"{self.prefix}{name}", Attributes=attributes)["QueueUrl"]

    def url(self, name: str) -> str:
        return self.sqs.get_queue_url(QueueName=f"{self.prefix}{name}")["QueueUrl"]

    def send(self, task: str, *args: Any, **options: Any) -> str:
        return self.app.send_task(task, args, **options).id

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker; its log is `<folder>/worker.log`."""
        with (self.folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [
                    *self.program,
                    "-A",
                    "testapp",
                    "worker",
                    "-l",
                    "INFO",
                    "-Q",
                    "tasks,raw",
                    *arguments,
                ],
                env=os.environ
                | {
                    "BROKER_URL": self.broker_url(),
                    "QUEUE_PREFIX": self.prefix,
                    "JOURNAL": str(self.journal),
                    "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}",
                }
                | environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.workers.append(worker)
        return worker

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        for worker in self.workers:
            worker.send_signal(number)
        for worker in self.workers:
            worker.wait(60)
        self.workers.clear()

    def lines(self) -> Counter[str]:
        """How often each line is in the journal."""
        return Counter(self.journal.read_text().splitlines())

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def counts(self, name: str = "tasks") -> tuple[int, int, int]:
        """How many messages of a queue are visible, in flight, delayed."""
        kinds = ("", "NotVisible", "Delayed")
        names = [f"ApproximateNumberOfMessages{kind}" for kind in kinds]
        answer = self.sqs.get_queue_attributes(QueueUrl=self.url(name), AttributeNames=names)  # type: ignore[arg-type]  # its names are a Literal
        visible, in_flight, delayed = (int(answer["Attributes"][kind]) for kind in names)  # type: ignore[index]  # the same
        return visible, in_flight, delayed

    def dead_letters(self, name: str = "tasks") -> list[dict[str, Any]]:
        """The dead letters of a queue, each with its attributes as plain text; takes them away."""
        found: list[dict[str, Any]] = []
        base, dot, fifo = name.partition(".")
        while messages := self.sqs.receive_message(
            QueueUrl=self.url(f"{base}-dlq{dot}{fifo}"),
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["MessageGroupId"],
            MaxNumberOfMessages=10,
        ).get("Messages"):
            for message in messages:
                attributes = {k: v.get("StringValue") for k, v in message.get("MessageAttributes", {}).items()}
                found.append({"Body": message["Body"], **message.get("Attributes", {}), **attributes})
        return found


@pytest.fixture
def queues(emulator: str, tmp_path: Path) -> Iterator[Queues]:
    queues = Queues(emulator, tmp_path)
    yield queues
    for worker in queues.workers:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    queues.app.close()
    queues.sqs.close()
