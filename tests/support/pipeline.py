"""The pipeline as its users see it: a worker with its queues, table, log and outbox."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from celery import Celery

from emails.dead_letters import ReceivedDeadLetter, dead_letters
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.store import EmailStore
from settings.aws import client
from tests.support.celery_programs import running_celery
from tests.support.stage import environment_of, new_stage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from settings import Settings


@dataclass(frozen=True)
class Worker:
    """A running worker."""

    settings: Settings
    process: subprocess.Popen[bytes]
    log_file: Path
    outbox: Path

    def log(self) -> str:
        return self.log_file.read_text()


@contextmanager
def running_worker(emulator: str, folder: Path, environment: dict[str, str], *options: str) -> Iterator[Worker]:
    """Run a worker on a new stage."""
    settings = new_stage(emulator)
    log_file, outbox = folder / "worker.log", folder / "outbox"
    own = environment_of(
        settings,
        EMAIL_STUB_OUTBOX=str(outbox),
        EMAIL_STUB_FAILURES='{"permanent@example.com": "permanent", "temporary@example.com": "temporary:1",'
        ' "silent@example.com": "unknown"}',
        EMAIL_RETRY_DELAY="1",
        EMAIL_MISSING_ROW_WAIT="3",
        EMAIL_LOG_FORMAT="json",
    )
    arguments = ["worker", "--loglevel", "INFO", *options]
    with running_celery(*arguments, log_file=log_file, environment=own | environment) as process:
        yield Worker(settings, process, log_file, outbox)


def another_program(settings: Settings, transport: str = "celery_sqs.transport:Transport", **options: Any) -> Celery:
    """Return the Celery app of another program that uses the same broker."""
    program = Celery("another", broker=f"sqs://test:test@{urlsplit(settings.endpoint or '').netloc}")
    program.conf.broker_transport = transport
    program.conf.broker_transport_options = {"region": "us-east-1", "is_secure": False, **options}
    return program


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
        """Return the lines of the log that are about this email."""
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
        assert enqueue_ids(find_raw_queue(self.settings), email_ids) == {}

    def status(self, row: dict[str, Any]) -> str:
        return (self.store.get(row["EmailId"]) or {})["EmailStatus"]

    def find_dead_letter(self, matches: Callable[[ReceivedDeadLetter], bool]) -> ReceivedDeadLetter:
        found: list[ReceivedDeadLetter] = []

        def look() -> bool:
            found.extend(letter for letter in dead_letters(self._sqs, self.settings) if matches(letter))
            return bool(found)

        self.wait_until(look, what="a dead letter")
        return found[0]
