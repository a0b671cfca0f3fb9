"""Starts workers of the test app as separate processes."""

from __future__ import annotations

import json
import signal
import threading
import uuid
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from celery.events.receiver import EventReceiver

from tests.support.celery_programs import kill, start_celery
from tests.support.sqs import emulator_client, message_counts

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from mypy_boto3_sqs import SQSClient


class Queues:
    """The test app's queues and its journal. It also starts workers."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint = endpoint
        self.folder = folder
        self.prefix = f"q{uuid.uuid4().hex[:10]}-"
        self.journal = folder / "journal"
        self.journal.touch()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.sqs: SQSClient = emulator_client("sqs", endpoint)
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
        """Start a worker. Its log is `<folder>/worker.log`. Its long polls are short, so that it stops soon."""
        worker = start_celery(
            *("worker", "-l", "INFO", "-Q", "tasks,raw", *arguments),
            app="testapp",
            log_file=self.folder / "worker.log",
            environment=self.environment() | {"WAIT_TIME_SECONDS": "1"} | environment,
            cwd=self.folder,
        )
        self.workers.append(worker)
        return worker

    def environment(self) -> dict[str, str]:
        """Return the environment that a program of the test app needs."""
        return {
            "BROKER_URL": self.broker_url(),
            "QUEUE_PREFIX": self.prefix,
            "JOURNAL": str(self.journal),
            "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}",
        }

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        for worker in self.workers:
            worker.send_signal(number)
        for worker in self.workers:
            worker.wait(60)
        self.workers.clear()

    def lines(self) -> Counter[str]:
        """Return how often each line is in the journal."""
        return Counter(self.journal.read_text().splitlines())

    def log(self) -> str:
        return (self.folder / "worker.log").read_text()

    def counts(self, name: str = "tasks") -> tuple[int, int, int]:
        """Return how many of a queue's messages are visible, in flight and delayed."""
        return message_counts(self.sqs, self.url(name))

    def dead_letters(self, name: str = "tasks") -> list[dict[str, Any]]:
        """Receive and delete the dead letters of a queue. Return their attributes as plain text."""
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

    def close(self) -> None:
        for worker in self.workers:
            kill(worker)
        self.app.close()
        self.sqs.close()


@contextmanager
def watching(queues: Queues, seen: list[dict[str, Any]]) -> Iterator[None]:
    """Watch the app's events as a monitor does. The block starts when the queue for them exists."""
    with queues.app.connection() as connection:
        ready = threading.Event()
        receiver = EventReceiver(connection, handlers={"*": seen.append}, app=queues.app)
        receiver.on_consume_ready = lambda *_, **__: ready.set()
        watcher = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": True})
        watcher.start()
        try:
            assert ready.wait(30)
            yield
        finally:
            receiver.should_stop = True
            watcher.join(30)


@pytest.fixture
def queues(emulator: str, tmp_path: Path) -> Iterator[Queues]:
    queues = Queues(emulator, tmp_path)
    yield queues
    queues.close()
