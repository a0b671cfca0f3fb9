"""A real worker, shared by the tests here: `celery -A tasks worker` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from emails.dead_letters import ReceivedDeadLetter, dead_letters
from emails.queue import RawQueue
from emails.resources import provision
from emails.store import EmailStore
from settings import Settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Worker:
    """A running worker."""

    settings: Settings
    process: subprocess.Popen[bytes]
    log_file: Path
    outbox: Path

    def log(self) -> str:
        return self.log_file.read_text()


@pytest.fixture(scope="session")
def worker(emulator: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with running_worker(emulator, tmp_path_factory.mktemp("worker"), {}) as worker:
        yield worker


@contextmanager
def running_worker(emulator: str, folder: Path, environment: dict[str, str], *options: str) -> Iterator[Worker]:
    """A worker of a stage of its own."""
    environment |= {
        "EMAIL_ENDPOINT_URL": emulator,
        "EMAIL_STAGE": f"w{uuid.uuid4().hex[:10]}",
        "EMAIL_STUB_OUTBOX": str(folder / "outbox"),
        "EMAIL_STUB_FAILURES": '{"permanent@example.com": "permanent", "temporary@example.com": "temporary:1",'
        ' "silent@example.com": "no-telling"}',
        "EMAIL_RETRY_DELAY": "1",
        "EMAIL_MISSING_ROW_WAIT": "3",
        "EMAIL_LOG_FORMAT": "json",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings = Settings()
    list(provision(settings))
    log_file = folder / "worker.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "INFO", *options],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield Worker(settings, process, log_file, folder / "outbox")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


class Pipeline:
    """The worker's queues, table, log and outbox."""

    def __init__(self, worker: Worker, wait_until: Callable[..., None]) -> None:
        self.settings = worker.settings
        self.outbox = worker.outbox
        self.log = worker.log
        self.wait_until = wait_until
        self.store = EmailStore.from_settings(worker.settings)
        self._sqs = client("sqs", worker.settings)

    def lines(self, email_id: str) -> list[dict[str, Any]]:
        """Of the log, what is about this email."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line.get("email_id") == email_id]

    def said(self, email_id: str) -> list[str]:
        return [line["event"] for line in self.lines(email_id)]

    def send(self, queue: str, body: str, **options: Any) -> str:
        url = self._sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        return self._sqs.send_message(QueueUrl=url, MessageBody=body, **options)["MessageId"]

    def send_raw(self, body: str, **options: Any) -> str:
        return self.send(self.settings.queue, body, **options)

    def enqueue(self, *email_ids: str) -> None:
        assert RawQueue(self.settings).enqueue(email_ids, sent=lambda count: count) == {}

    def status(self, row: dict[str, Any]) -> str:
        return (self.store.get(row["EmailId"]) or {})["EmailStatus"]

    def find_dead_letter(self, matches: Callable[[ReceivedDeadLetter], bool]) -> ReceivedDeadLetter:
        found: list[ReceivedDeadLetter] = []

        def look() -> bool:
            found.extend(letter for letter in dead_letters(self._sqs, self.settings) if matches(letter))
            return bool(found)

        self.wait_until(look, what="a dead letter")
        return found[0]


@pytest.fixture
def pipeline(worker: Worker, wait_until: Callable[..., None]) -> Pipeline:
    return Pipeline(worker, wait_until)
