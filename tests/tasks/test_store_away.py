"""DynamoDB is away while SQS is there: emails wait in SQS, and nothing is counted or given up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from pydantic import HttpUrl

from emails.dead_letters import dead_letters
from emails.queue import RawQueue
from emails.resources import provision
from emails.store import EmailStore
from settings import Settings
from settings.aws import client
from tests.emails.callbacks.notifications import RECIPIENT, by_sns, event
from tests.proxy import Away, Proxy, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_sqs import SQSClient

    Row = dict[str, Any]

pytestmark = pytest.mark.slow


class Fate:
    """Closes every connection on which DynamoDB is asked for something while it is away."""

    def __init__(self) -> None:
        self.dynamodb_is_away = False
        self.refused = 0
        self.delays: list[int] = []
        """The DelaySeconds of each message that was sent."""
        self.reprs: list[str] = []
        """What their headers, and so events, show of their arguments."""

    def __call__(self, service: str, action: str, body: bytes) -> str:
        if service.startswith("DynamoDB") and self.dynamodb_is_away:
            self.refused += 1
            raise Away
        if action == "SendMessageBatch":
            entries = json.loads(body)["Entries"]
            self.delays += [entry.get("DelaySeconds", 0) for entry in entries]
            self.reprs += [json.loads(entry["MessageBody"])["headers"]["argsrepr"] for entry in entries]
        return ""


@contextmanager
def running_worker(log_file: Path, environment: dict[str, str]) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "INFO"]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def fate() -> Fate:
    return Fate()


@pytest.fixture
def away(emulator: str, fate: Fate, tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Settings]:
    """A worker that has started, and lost DynamoDB then; gives the settings that go around the proxy."""
    settings = Settings(endpoint_url=HttpUrl(emulator), stage=f"a{uuid.uuid4().hex[:10]}")
    list(provision(settings))
    log_file = tmp_path / "worker.log"
    outbox = str(tmp_path / "outbox")
    with running(Proxy(emulator, fate)) as proxy:
        environment = {"EMAIL_ENDPOINT_URL": proxy.url, "EMAIL_STAGE": settings.stage, "EMAIL_STUB_OUTBOX": outbox}
        with running_worker(log_file, environment):
            wait_until(lambda: " ready." in log_file.read_text())
            fate.dynamodb_is_away = True
            yield settings
            fate.dynamodb_is_away = False


def count_messages(sqs: SQSClient, settings: Settings) -> int:
    total = 0
    kinds = ("", "NotVisible", "Delayed")
    for queue in settings.queues:
        url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        total += sum(int(attributes[f"ApproximateNumberOfMessages{kind}"]) for kind in kinds)
    return total


def test_emails_wait_in_sqs_while_dynamodb_is_away_and_are_sent_when_it_is_back(
    away: Settings, fate: Fate, row: Row, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    sqs, store = client("sqs", away), EmailStore(client("dynamodb", away), away.table)
    rows = [row | {"EmailId": f"email-{number}"} for number in range(5)]
    for each in rows:
        store.put(each)
    RawQueue(sqs, away).enqueue([each["EmailId"] for each in rows], sent=lambda count: count)

    def found() -> list[Row]:
        return [store.get(each["EmailId"]) or {} for each in rows]

    wait_until(lambda: fate.refused and any(fate.delays), what="a delayed copy")
    assert count_messages(sqs, away) >= len(rows), "each email has a message"
    assert found() == rows, "nothing was claimed, and no attempt counted"
    fate.dynamodb_is_away = False
    wait_until(lambda: {each["EmailStatus"] for each in found()} == {"Sent"})
    assert [each["Attempts"] for each in found()] == [1] * len(rows)
    assert len(list((tmp_path / "outbox").iterdir())) == len(rows)
    wait_until(lambda: count_messages(sqs, away) == 0)
    assert list(dead_letters(sqs, away)) == []


def test_a_callback_waits_too_and_shows_nobody_s_address_meanwhile(
    away: Settings, fate: Fate, row: Row, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    sqs, store = client("sqs", away), EmailStore(client("dynamodb", away), away.table)
    store.put(row | {"EmailStatus": "Sent"})
    url = sqs.get_queue_url(QueueName=away.callbacks_queue)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody=by_sns(event("Delivery", row["EmailId"])))
    wait_until(lambda: any(fate.delays), what="a delayed copy")
    assert all(shown.startswith("(<body of ") for shown in fate.reprs)
    fate.dynamodb_is_away = False
    wait_until(lambda: (store.get(row["EmailId"]) or {})["EmailStatus"] == "Delivered")
    assert RECIPIENT not in (tmp_path / "worker.log").read_text()


def test_an_email_waits_however_often_it_has_waited(
    away: Settings, fate: Fate, wait_until: Callable[..., None]
) -> None:
    sqs = client("sqs", away)
    tasks = ["tasks.load_email", "tasks.send_email"]
    with Celery("another", broker=f"sqs://test:test@{urlsplit(away.endpoint or '').netloc}") as program:
        program.conf.broker_transport = "celery_sqs.transport:Transport"
        program.conf.broker_transport_options = {"region": "us-east-1", "is_secure": False}
        for task in tasks:
            program.send_task(task, ["email-1"], queue=away.tasks_queue, retries=50)

    def delayed() -> int:
        return sum(delay > 0 for delay in fate.delays)

    wait_until(lambda: delayed() + len(list(dead_letters(sqs, away))) == len(tasks))
    assert list(dead_letters(sqs, away)) == []
    wait_until(lambda: count_messages(sqs, away) == len(tasks), what="the copies alone are left")
