"""Marks in every private place; nothing that comes out of a worker has one."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from celery import Celery
from pydantic import HttpUrl

from emails.dead_letters import dead_letters
from emails.queue import RawQueue
from emails.resources import provision
from emails.store import EmailStore
from settings import Settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Row = dict[str, Any]
    Events = list[dict[str, Any]]

MARK = "pr1vate"


def marked(number: int) -> str:
    return f"{MARK}-{number}@example.com"


PRIVATE: Row = {
    "EmailStatus": "Pending",
    "Subject": f"{MARK} subject",
    "Sender": f"{MARK} sender <{marked(1)}>",
    "RecipientsTo": [marked(2)],
    "RecipientsCc": [f"{MARK} cc <{marked(3)}>"],
    "RecipientsBcc": [marked(4)],
    "ReplyTo": [marked(5)],
    "BodyText": f"{MARK} text",
    "BodyHtml": f"<p>{MARK} html</p>",
    "Headers": {f"X-{MARK}": f"{MARK} header"},
    "Tags": {f"{MARK}-tag": f"{MARK} tag"},
    "Attachments": [
        {"name": f"{MARK}.txt", "content_type": "text/plain", "body": base64.b64encode(MARK.encode()).decode()}
    ],
}
FAILURES = {"permanent": marked(6), "temporary": marked(7), "no-telling": marked(8)}

# What each row becomes, and what its log says.
CASES: dict[str, tuple[Row, str]] = {
    "sent": ({}, "Sent"),
    "permanent": ({"RecipientsTo": [FAILURES["permanent"]]}, "Failed: the stub was told to fail permanently"),
    "temporary": (
        {"RecipientsTo": [FAILURES["temporary"]]},
        "Failed: the stub was told to fail temporarily (attempt 2, the last)",
    ),
    "no-telling": ({"RecipientsTo": [FAILURES["no-telling"]]}, "Unknown: the stub was told not to answer"),
    "provider-crash": ({}, "Unknown: the provider raised RuntimeError"),
    "bad-address": ({"RecipientsCc": [f"{MARK} no address@"]}, "Failed: invalid row"),
    "bad-subject": ({"Subject": f"{MARK}\nBcc: {marked(9)}"}, "Failed: invalid row"),
    "bad-header": ({"Headers": {f"X {MARK}:": f"{MARK}\n"}}, "Failed: invalid row"),
    "bad-tag": ({"Tags": {MARK: 7}}, "Failed: invalid row"),
    "bad-attachment": ({"Attachments": [{"name": f"{MARK}\n", "body": f"{MARK}!"}]}, "Failed: invalid row"),
    "bad-type": ({"BodyText": {MARK: [MARK]}}, "Failed: invalid row"),
    "bad-provider": ({"SendVia": MARK}, "Failed: SendVia: names none of the providers stub"),
    "load-crash": ({}, ""),  # a dead letter
}
BODIES = {
    "NotJson": f"{MARK} is no JSON",
    "NotAnObject": json.dumps([MARK]),
    "NoEmailId": json.dumps({MARK: MARK, "email": marked(10)}),
    "InvalidEmailId": json.dumps({"email_id": [MARK]}),
    "InvalidEnvelope": json.dumps({"TopicArn": MARK, "Message": [MARK]}),
}


def task_message(task: str, *arguments: object, **changes: object) -> str:
    headers = {"lang": "py", "task": task, "id": str(uuid.uuid4()), "root_id": None, "retries": 0}
    message = {
        "body": json.dumps([arguments, {}, {}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {"delivery_info": {}, "delivery_tag": "y", "body_encoding": "utf-8"},
    }
    return json.dumps(message | changes)


# Dead letters of the tasks queue: an unregistered task, a body of the wrong shape, one that may not be decoded.
TASK_MESSAGES = [
    f"{MARK} is no JSON",
    task_message("no.such.task", MARK),
    task_message("tasks.process_email", body=json.dumps([MARK])),
    task_message("tasks.process_email", body=json.dumps([[], {MARK: MARK}, {}])),
    task_message("tasks.process_email", body=MARK, **{"content-type": "application/x-python-serialize"}),
]


@contextmanager
def watching(settings: Settings) -> Iterator[Events]:
    """Every event, as Flower hears it."""
    program = Celery("watcher", broker=f"sqs://test:test@{urlsplit(settings.endpoint or '').netloc}")
    program.conf.broker_transport = "celery_sqs.transport:Transport"
    program.conf.broker_transport_options = {
        "region": "us-east-1",
        "is_secure": False,
        "control_queue_prefix": settings.control_queue_prefix,
    }
    events: Events = []
    with program, program.connection() as connection:
        receiver = program.events.Receiver(connection, handlers={"*": events.append})

        watcher = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        watcher.start()
        try:
            yield events
        finally:
            receiver.should_stop = True
            watcher.join(30)


@contextmanager
def working(environment: dict[str, str], log_file: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "celery", "-A", "tests.tasks.indiscreet", "worker", "--loglevel", "DEBUG"]
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()  # it has said everything
        process.wait()


def test_nothing_private_comes_out_of_a_worker(emulator: str, tmp_path: Path, wait_until: Callable[..., None]) -> None:
    settings = Settings(endpoint_url=HttpUrl(emulator), stage=f"p{uuid.uuid4().hex[:10]}")
    list(provision(settings))
    sqs, store = client("sqs", settings), EmailStore(client("dynamodb", settings), settings.table)
    environment = {
        "EMAIL_ENDPOINT_URL": emulator,
        "EMAIL_STAGE": settings.stage,
        "EMAIL_STUB_FAILURES": json.dumps({address: failure for failure, address in FAILURES.items()}),
        "EMAIL_MAX_ATTEMPTS": "2",
        "EMAIL_RETRY_DELAY": "0.1",
        "EMAIL_LOG_FORMAT": "json",
    }
    log_file = tmp_path / "worker.log"

    def said(email_id: str) -> set[str]:
        lines = [json.loads(line) for line in log_file.read_text().splitlines() if line.startswith("{")]
        return {line["event"] for line in lines if line.get("email_id") == email_id}

    for case, (changes, _) in CASES.items():
        store.put(PRIVATE | {"EmailId": f"email-{case}"} | changes)
    raw = RawQueue(sqs, settings)
    tasks_queue = sqs.get_queue_url(QueueName=settings.tasks_queue)["QueueUrl"]
    with watching(settings) as events, working(environment, log_file):
        raw.enqueue([f"email-{case}" for case in CASES], sent=lambda count: count)
        for body in BODIES.values():
            sqs.send_message(QueueUrl=raw.url, MessageBody=body)
        for body in TASK_MESSAGES:
            sqs.send_message(QueueUrl=tasks_queue, MessageBody=body)
        for case, (_, outcome) in CASES.items():
            wait_until(lambda case=case, outcome=outcome: not outcome or outcome in said(f"email-{case}"), what=case)
        expected = len(BODIES) + len(TASK_MESSAGES) + 1
        wait_until(lambda: len(list(dead_letters(sqs, settings))) == expected, what="the dead letters")
        letters = list(dead_letters(sqs, settings))
        failed = {"task-failed", "task-rejected", "task-succeeded", "task-retried", "task-received"}
        wait_until(lambda: failed <= {event["type"] for event in events}, what="the events")
    assert set(BODIES) < {letter.reason for letter in letters}
    assert "RuntimeError in send (tasks/indiscreet.py:" in log_file.read_text()
    assert "KeyError in load (tasks/indiscreet.py:" in log_file.read_text()
    for out in (log_file.read_text(), json.dumps(events), str([letter.attributes for letter in letters])):
        assert [line for line in out.splitlines() if MARK in line] == []
