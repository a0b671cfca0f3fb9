"""Runs one contender on its own stand-in, and measures what its emails cost."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from pydantic import HttpUrl

from bench.contenders import COMMANDS, CONCURRENCY, GROUPED, STAGE
from bench.sessions import Cost, cost, members
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.resources import provision
from emails.status import EmailStatus
from emails.store import EmailStore
from settings import Settings
from settings.aws import client
from settings.model import LOCALSTACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]

WARM_UP_EMAILS = 100  # enough for every process and thread to create its clients and connections
BYTES_BESIDE_BODY = 150  # the rest of an item, as DynamoDB counts it
ROWS_A_REQUEST, KEYS_A_REQUEST = 25, 100  # the limits of BatchWriteItem and BatchGetItem
START_SECONDS, SLOWEST_EMAILS_A_SECOND = 60, 5
LOOK_EVERY_SECONDS = 0.02
LATENCY_STEP_SECONDS = 0.002

# Variables that begin like this may name other queues and tables, and must not reach a contender.
OTHER_PLACES = ("AWS_", "EMAIL_", "DYNAMO_TABLE", "QUEUE_URL")


class Stuck(Exception):
    """A contender ended or did not do its work in time. The text names it and contains the end of its log."""

    def __init__(self, contender: str, what: str, log: IO[bytes]) -> None:
        log.seek(0)
        super().__init__(f"{contender}: {what}\n{log.read()[-3000:].decode(errors='replace')}")


@dataclass(frozen=True)
class Measured:
    """What this many emails cost together."""

    emails: int
    seconds: float
    sqs: dict[str, int]  # by action
    sqs_units: dict[str, int]  # the same in the units that SQS bills
    dynamodb: dict[str, int]
    cpu_seconds: float
    peak_rss_bytes: int


class StandIn:
    """A running stand-in, which is asked over one connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def look(self, path: str) -> dict[str, Any]:
        self._connection.request("GET", path)
        found: dict[str, Any] = json.load(self._connection.getresponse())
        return found

    def count(self, service: str, action: str) -> int:
        return int(self.look("/counts")[service].get(action, 0))

    def close(self) -> None:
        self._connection.close()


class Contender:
    """A running contender."""

    def __init__(self, name: str, standin: StandIn, settings: Settings, row_bytes: int, log: IO[bytes]) -> None:
        self.standin = standin
        self._name = name
        self._settings = settings
        self._body = ("<p>All is well.</p>\n" * row_bytes)[: row_bytes - BYTES_BESIDE_BODY]
        self._log = log
        self._sqs, self._dynamodb = client("sqs", settings), client("dynamodb", settings)
        self._raw_queue = find_raw_queue(settings)
        self._store = EmailStore.from_settings(settings)
        self._written = 0
        self._queues: list[str] = []
        self._supervisors: list[subprocess.Popen[Any]] = []

    def warm_up(self, supervisors: list[subprocess.Popen[Any]]) -> None:
        self._supervisors = supervisors
        self._wait(lambda: self.standin.count("sqs", "ReceiveMessage"), START_SECONDS, "the first receive")
        enqueue_ids(self._raw_queue, self._write_rows(WARM_UP_EMAILS))
        done = 2 * WARM_UP_EMAILS  # each has a claim and a record
        self._wait(
            lambda: self.standin.count("updates", self._settings.table) >= done, START_SECONDS, "the warm-up is sent"
        )
        urls = self._sqs.list_queues(QueueNamePrefix=self._settings.queue)["QueueUrls"]
        # The raw queue comes first, because its messages are deleted only after their tasks have been started.
        self._queues = sorted((url for url in urls if not url.endswith("_dlq")), key=len)
        self.wait_drained(WARM_UP_EMAILS)

    def measure(self, emails: int) -> Measured:
        """Send this many emails, wait until all are Sent and every queue is empty, and return what they cost.

        The contender is stopped while the queue is filled, because the producer is not measured, and again at the end.
        """
        ids = self._write_rows(emails)
        self.stand_still()
        enqueue_ids(self._raw_queue, ids)
        self.standin.look("/reset-counts")
        before, start = self._cost(), time.monotonic()
        self._signal(signal.SIGCONT)
        self.wait_drained(emails)
        seconds, after, counts = time.monotonic() - start, self._cost(), self.standin.look("/counts")
        self.stand_still()
        if unsent := emails - self._count_sent(ids):
            raise self._stuck(f"{unsent} of {emails} emails are not Sent")
        return Measured(
            emails,
            seconds,
            counts["sqs"],
            counts["sqs_units"],
            counts["dynamodb"],
            after.cpu_seconds - before.cpu_seconds,
            after.peak_rss_bytes,
        )

    def stand_still(self) -> None:
        """Stop the contender until the next `measure`."""
        self._signal(signal.SIGSTOP)

    def latency(self) -> float:
        """Send one email, and return the seconds from its raw message until its row is Sent."""
        (email_id,) = self._write_rows(1)
        body = json.dumps({"email_id": email_id})
        done = self.standin.count("updates", self._settings.table) + 2  # a claim and a record
        start = time.monotonic()
        self._sqs.send_message(QueueUrl=self._raw_queue.url, MessageBody=body)
        self._wait(
            lambda: self.standin.count("updates", self._settings.table) >= done,
            START_SECONDS,
            "one email is Sent",
            every=LATENCY_STEP_SECONDS,
        )
        seconds = time.monotonic() - start
        self.wait_drained(1)
        return seconds

    def wait_drained(self, emails: int) -> None:
        paths = [f"/queue?url={quote(url)}" for url in self._queues]
        self._wait(
            lambda: not any(sum(self.standin.look(path).values()) for path in paths),
            START_SECONDS + emails / SLOWEST_EMAILS_A_SECOND,
            f"{emails} emails are sent and deleted",
        )

    def _count_sent(self, ids: list[str]) -> int:
        parts = [ids[first : first + KEYS_A_REQUEST] for first in range(0, len(ids), KEYS_A_REQUEST)]
        return sum(list(self._store.statuses(part).values()).count(EmailStatus.SENT) for part in parts)

    def _write_rows(self, count: int) -> list[str]:
        ids = [f"email-{number}" for number in range(self._written, self._written + count)]
        self._written += count
        for first in range(0, count, ROWS_A_REQUEST):
            writes = [{"PutRequest": {"Item": self._row(email_id)}} for email_id in ids[first : first + ROWS_A_REQUEST]]
            self._dynamodb.batch_write_item(RequestItems={self._settings.table: cast("Any", writes)})
        return ids

    def _row(self, email_id: str) -> dict[str, Any]:
        return {
            "EmailId": {"S": email_id},
            "EmailStatus": {"S": "Pending"},
            "Subject": {"S": "Your order is on its way"},
            "Sender": {"S": "The Shop <shop@example.com>"},
            "RecipientsTo": {"L": [{"S": "Ada Lovelace <ada@example.com>"}]},
            "BodyHtml": {"S": self._body},
        }

    def _cost(self) -> Cost:
        return cost([supervisor.pid for supervisor in self._supervisors])

    def _signal(self, number: signal.Signals) -> None:
        for supervisor in self._supervisors:
            for pid in members(supervisor.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _wait(
        self, condition: Callable[[], object], seconds: float, what: str, every: float = LOOK_EVERY_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if any(supervisor.poll() is not None for supervisor in self._supervisors):
                raise self._stuck(f"it ended before {what}")
            if time.monotonic() > deadline:
                raise self._stuck(f"not within {seconds:.0f} s: {what}")
            time.sleep(every)

    def _stuck(self, what: str) -> Stuck:
        return Stuck(self._name, what, self._log)


@contextmanager
def running(name: str, row_bytes: int, *, latency_ms: float = 0) -> Iterator[Contender]:
    """Start a stand-in and the contender, and let it warm up. Both are ended, whatever happens.

    `latency_ms` is added to each answer of DynamoDB.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OTHER_PLACES)}
    environment["PYTHONPATH"] = str(ROOT)
    environment["EMAIL_STUB_OUTBOX"] = "none"  # the disk is not what is measured
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())  # so that no .env is read
        log = stack.enter_context(TemporaryFile())

        def start(command: str, output: Any) -> subprocess.Popen[Any]:
            python = (sys.executable, "-m")
            supervisor = [*python, "bench.supervisor", *python, *command.split()]
            # When the context is left, standard input is closed, which ends the supervisor.
            return stack.enter_context(
                subprocess.Popen(
                    supervisor,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=log,
                    cwd=folder,
                    env=environment,
                    start_new_session=True,
                )
            )

        ready = start(f"bench.standin --latency {latency_ms}", subprocess.PIPE).stdout
        url = ready.readline().decode().removeprefix("ready on ").strip() if ready else ""
        if not url:
            raise Stuck(name, "its stand-in did not start", log)
        standin = StandIn(url)
        stack.callback(standin.close)
        settings = Settings(
            region=LOCALSTACK,
            endpoint_url=HttpUrl(standin.url),
            stage=STAGE,
            queue_url=None,
            table_name="",
            concurrency=CONCURRENCY,
            grouped_requests=name in GROUPED,
        )
        list(provision(settings))
        environment |= settings.environment()
        contender = Contender(name, standin, settings, row_bytes, log)
        contender.warm_up([start(command, log) for command in COMMANDS[name]])
        yield contender
