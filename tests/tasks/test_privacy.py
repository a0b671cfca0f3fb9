"""Marks are put in every private place, and no output of a worker contains one."""

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

import pytest

from emails.dead_letters import dead_letters
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.store import EmailStore
from settings.aws import client
from tests.emails.callbacks.notifications import CONFIRMATIONS, confirmation
from tests.support.celery_programs import running_celery
from tests.support.pipeline import another_program
from tests.support.smtp_server import SmtpServer, running
from tests.support.stage import environment_of, new_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from settings import Settings

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
FAILURES = {"permanent": marked(6), "temporary": marked(7), "unknown": marked(8)}

BUCKET = "private-files"
FOLDER = f"s3://{BUCKET}/mail/"
S3_KEY = f"mail/{MARK} invoice.txt"


def in_s3(uri: str, **attributes: object) -> Row:
    return {"Attachments": [{"name": "a.txt", "content_type": "text/plain", "s3_uri": uri, **attributes}]}


# What an SMTP server says about a recipient or about all emails. None of it contains an @.
REPLIES = {
    "dot": f"250 2.0.0 Ok {MARK} subject",
    marked(11): f"550 5.1.1 {MARK} is unknown",
    marked(12): f"450 4.2.2 {MARK} is over quota",
}

# The status that each row ends in, and what the log says about it.
CASES: dict[str, tuple[Row, str]] = {
    "sent": ({}, "Sent"),
    "permanent": ({"RecipientsTo": [FAILURES["permanent"]]}, "Failed: the stub was told to fail permanently"),
    "temporary": (
        {"RecipientsTo": [FAILURES["temporary"]]},
        "Failed: the stub was told to fail temporarily (attempt 2, the last)",
    ),
    "unknown": ({"RecipientsTo": [FAILURES["unknown"]]}, "Unknown: the stub was told not to answer"),
    "provider-crash": ({}, "Unknown: the provider raised RuntimeError"),
    "bad-address": ({"RecipientsCc": [f"{MARK} no address@"]}, "Failed: invalid row"),
    "bad-subject": ({"Subject": f"{MARK}\nBcc: {marked(9)}"}, "Failed: invalid row"),
    "bad-header": ({"Headers": {f"X {MARK}:": f"{MARK}\n"}}, "Failed: invalid row"),
    "bad-header-name": ({"Headers": {f"{MARK}:": "x"}}, "Failed: invalid row"),
    "relays-header": ({"Headers": {f"X-SES-{MARK}": "x"}}, "Failed: invalid row"),
    "same-header": ({"Headers": {MARK: "x", MARK.upper(): "y"}}, "Failed: invalid row"),
    "bad-tag": ({"Tags": {MARK: 7}}, "Failed: invalid row"),
    "bad-tag-name": ({"Tags": {f"{MARK}\n": "x"}}, "Failed: invalid row"),
    "bad-attachment": ({"Attachments": [{"name": f"{MARK}\n", "body": f"{MARK}!"}]}, "Failed: invalid row"),
    "bad-type": ({"BodyText": {MARK: [MARK]}}, "Failed: invalid row"),
    "bad-provider": ({"SendVia": MARK}, "Failed: SendVia: is not one of the providers stub, smtp"),
    "s3": (in_s3(f"s3://{BUCKET}/{S3_KEY}"), "Sent"),
    "s3-missing": (in_s3(f"{FOLDER}{MARK}"), "Failed: Attachments[0].s3_uri: S3 has no such object"),
    "s3-replaced": (
        in_s3(f"s3://{BUCKET}/{S3_KEY}", size=1),
        "Failed: Attachments[0].s3_uri: size is 1, but the object in S3 has 7 bytes",
    ),
    "s3-elsewhere": (
        in_s3(f"s3://{BUCKET}/{MARK}"),
        "Failed: Attachments[0].s3_uri: does not begin with any of EMAIL_ATTACHMENT_PREFIXES",
    ),
    "smtp": ({"SendVia": "smtp"}, "Sent"),
    "smtp-refused": (
        {"SendVia": "smtp", "RecipientsTo": [marked(11)], "RecipientsCc": [], "RecipientsBcc": []},
        "Failed: the SMTP server rejected every recipient: 550 5.1.1, no such mailbox",
    ),
    "smtp-deferred": (
        {"SendVia": "smtp", "RecipientsTo": [marked(12)], "RecipientsCc": [], "RecipientsBcc": []},
        (
            "Failed: the SMTP server did not accept 1 of 1 recipients for now: 450 4.2.2, mailbox full"
            " (attempt 2, the last)"
        ),
    ),
    "load-crash": ({}, ""),  # it is dead-lettered
}
BODIES = {
    "NotJson": f"{MARK} is no JSON",
    "NotAnObject": json.dumps([MARK]),
    "NoEmailId": json.dumps({MARK: MARK, "email": marked(10)}),
    "InvalidEmailId": json.dumps({"email_id": [MARK]}),
    "InvalidEnvelope": json.dumps({"TopicArn": MARK, "Message": [MARK]}),
    **{kind: confirmation(kind, message=MARK, token=MARK) for kind in CONFIRMATIONS},
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


# Dead letters of the tasks queue: an unregistered task, a body of the wrong shape, and one that may not be decoded.
TASK_MESSAGES = [
    f"{MARK} is no JSON",
    task_message("no.such.task", MARK),
    task_message("tasks.process_email", body=json.dumps([MARK])),
    task_message("tasks.process_email", body=json.dumps([[], {MARK: MARK}, {}])),
    task_message("tasks.process_email", body=MARK, **{"content-type": "application/x-python-serialize"}),
]


def story(row: Row | None) -> Row:
    """Return what the service wrote into a row."""
    producers = {*PRIVATE, "SendVia"} - {"EmailStatus"}
    return {name: value for name, value in (row or {}).items() if name not in producers}


@contextmanager
def watching(settings: Settings) -> Iterator[Events]:
    """Collect every event, as Flower would receive it."""
    program = another_program(settings, control_queue_prefix=settings.control_queue_prefix)
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


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    """Return a server that quotes emails in its replies."""
    server = SmtpServer()
    server.fates |= REPLIES
    with running(server):
        yield server


@pytest.mark.slow
def test_nothing_private_comes_out_of_a_worker(
    emulator: str, smtp: SmtpServer, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    settings = new_stage(emulator)
    sqs, store = client("sqs", settings), EmailStore.from_settings(settings)
    environment = environment_of(settings) | {
        "EMAIL_STUB_FAILURES": json.dumps({address: failure for failure, address in FAILURES.items()}),
        "EMAIL_MAX_ATTEMPTS": "2",
        "EMAIL_SEND_VIA": "smtp",
        "EMAIL_RETRY_DELAY": "0.1",
        "EMAIL_LOG_FORMAT": "json",
        "EMAIL_ATTACHMENT_PREFIXES": FOLDER,
        "EMAIL_SMTP_HOST": "127.0.0.1",
        "EMAIL_SMTP_PORT": str(smtp.port),
        "EMAIL_SMTP_SECURITY": "none",
    }
    log_file = tmp_path / "worker.log"
    s3 = client("s3", settings)
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key=S3_KEY, Body=MARK.encode())

    def said(email_id: str) -> set[str]:
        lines = [json.loads(line) for line in log_file.read_text().splitlines() if line.startswith("{")]
        return {line["event"] for line in lines if line.get("email_id") == email_id}

    for case, (changes, _) in CASES.items():
        store.put(PRIVATE | {"EmailId": f"email-{case}"} | changes)
    raw = find_raw_queue(settings)
    tasks_queue = sqs.get_queue_url(QueueName=settings.tasks_queue)["QueueUrl"]
    worker = running_celery(
        "worker", "--loglevel", "DEBUG", app="tests.tasks.indiscreet", log_file=log_file, environment=environment
    )
    with watching(settings) as events, worker:
        enqueue_ids(raw, [f"email-{case}" for case in CASES])
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
    stories = json.dumps([story(store.get(f"email-{case}")) for case in CASES], default=str, indent=0)
    assert "Ok" not in stories, "the SMTP server's own words"
    for out in (log_file.read_text(), json.dumps(events), str([letter.attributes for letter in letters]), stories):
        assert [line for line in out.splitlines() if MARK in line] == []


CELERY = ["-m", "celery", "-A", "tasks"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*CELERY, "worker", "--loglevel", "DEBUG"],
        pytest.param([*CELERY, "inspect", "stats"], marks=pytest.mark.slow),
        pytest.param([*CELERY, "flower"], marks=pytest.mark.slow),
        ["-c", "from commands import main; main()", "status", "email-1"],
    ],
    ids=lambda arguments: arguments[4] if arguments[0] == "-m" else arguments[2],
)
def test_no_program_says_the_password_of_an_endpoint(arguments: list[str], free_endpoint: str) -> None:
    host = urlsplit(free_endpoint).netloc
    result = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"EMAIL_ENDPOINT_URL": f"http://user:{MARK}@{host}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert (
        f"EMAIL_ENDPOINT_URL or AWS_ENDPOINT_URL: is '…@{host}'; should have no user name or password" in result.stderr
    )
    assert MARK not in result.stdout + result.stderr
