"""The policies in docs/iam allow everything that each program asks for, and nothing that it does not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from base64 import b64encode
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner

from commands import main
from commands.broker import main as email_broker
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.store import EmailStore
from settings import Settings, get_settings
from settings.aws import client
from tests.conftest import free_port
from tests.emails.callbacks.notifications import event
from tests.emails.webhooks.examples import POSTMARK
from tests.support import webhook_program
from tests.support.celery_programs import kill, start_celery
from tests.support.proxy import Proxy, running
from tests.support.sqs import leave_control_queue, message_counts
from tests.support.stage import PREDECESSORS_TABLE, new_stage, pending_row, write_rows
from tests.support.webhooks import signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


pytestmark = pytest.mark.slow

STAGE = "iam"  # it replaces `production` in the policies
POLICIES = Path(__file__).parents[2] / "docs" / "iam"

# IAM's action for a request, if its name is different (Service Authorization Reference, "Amazon SQS" and "DynamoDB").
ACTION = {
    "BatchExecuteStatement": "PartiQLUpdate",  # the service has no other statements
    "SendMessageBatch": "SendMessage",
    "DeleteMessageBatch": "DeleteMessage",
    "ChangeMessageVisibilityBatch": "ChangeMessageVisibility",
}

# Actions that the policies need but that are not seen here, each with its reason.
UNSEEN = {
    "sqs:ChangeMessageVisibility",  # by Flower, for a reply that arrives after its call's timeout
    "sqs:TagQueue",  # CreateQueue with tags requires it, and it renews a lease every ten minutes
    # The provider is the stub here. SendEmail also requires SendRawEmail if it is given a raw message
    # (django-anymail#384).
    "ses:SendEmail",
    "ses:SendRawEmail",
    "ses:GetAccount",
    "lambda:UpdateEventSourceMapping",  # the stage has no functions here
    "cloudwatch:GetMetricData",  # its protocol is not one that the recorder reads, and the page works without it
}

Request = tuple[str, str]


class Recorder:
    """Records the requests that go through a proxy, as IAM's actions on resources.

    If `only` has statements of policies, all other requests are denied.
    """

    def __init__(self) -> None:
        self.seen: set[Request] = set()
        self.only: list[dict[str, Any]] = []

    def __call__(self, service: str, action: str, body: bytes) -> str:
        request = json.loads(body) if body and service else {}
        wanted: set[Request] = set()
        if service == "S3" and "/event-source-mappings" in action:
            self.seen.add(("lambda:ListEventSourceMappings", "*"))
        elif service == "S3":
            wanted.add(("s3:GetObject", f"arn:aws:s3:::{action.removeprefix('/')}"))
        elif service == "AmazonSQS":
            name = request.get("QueueName") or request.get("QueueUrl", "").rpartition("/")[2]
            resource = f"arn:aws:sqs:us-east-1:123456789012:{name}" if name else "*"
            wanted.add((f"sqs:{ACTION.get(action, action)}", resource))
        elif service.startswith("DynamoDB"):
            index = f"/index/{request['IndexName']}" if "IndexName" in request else ""
            for table in _tables(request):
                action = ACTION.get(action, action)
                wanted.add((f"dynamodb:{action}", f"arn:aws:dynamodb:us-east-1:123456789012:table/{table}{index}"))
        self.seen |= wanted
        return "AccessDeniedException" if self.only and not all(is_allowed(each, self.only) for each in wanted) else ""


def is_allowed(request: Request, statements: list[dict[str, Any]]) -> bool:
    action, resource = request
    return any(
        action in each["Action"] and any(fnmatchcase(resource, pattern) for pattern in each["Resource"])
        for each in statements
    )


def _tables(request: dict[str, Any]) -> Iterable[str]:
    """Return the names of the tables of a request to DynamoDB."""
    if "Statements" in request:
        return {each["Statement"].split('"')[1] for each in request["Statements"]}
    return request.get("RequestItems") or [request["TableName"]]  # BatchGetItem has a mapping of tables


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def stage(emulator: str, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A stage in which all requests are recorded."""
    new_stage(emulator, STAGE)
    with running(Proxy(emulator, recorder)) as proxy:
        monkeypatch.setattr(os, "environ", os.environ.copy())
        os.environ.update(EMAIL_ENDPOINT_URL=proxy.url, EMAIL_STAGE=STAGE, EMAIL_VISIBILITY_TIMEOUT="30")
        get_settings.cache_clear()
        yield Settings()
        get_settings.cache_clear()


def statements(policy: str) -> list[dict[str, Any]]:
    found = json.loads((POLICIES / f"{policy}.json").read_text().replace("production", STAGE))["Statement"]
    return [
        {
            name: value if isinstance(value, list) else [value]
            for name, value in each.items()
            if name in ("Action", "Resource")
        }
        for each in found
    ]


def held_against(policy: str, seen: set[Request]) -> dict[str, set[Any]]:
    """Return what the policy lacks, and what it has in excess."""
    return compare(statements(policy), seen, UNSEEN)


def compare(allowed: list[dict[str, Any]], seen: set[Request], unseen: set[str]) -> dict[str, set[Any]]:
    """Return what the statements lack, and what they have in excess. `unseen` actions are not in excess."""
    named = {action for each in allowed for action in each["Action"]}
    return {
        "missing": {request for request in seen if not is_allowed(request, allowed)},
        "unseen": named - {action for action, _ in seen} - unseen,
    }


NOTHING: dict[str, set[Any]] = {"missing": set(), "unseen": set()}


@pytest.fixture
def celery(stage: Settings, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts one of Celery's programs on the stage."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        started.append(start_celery(*arguments, log_file=tmp_path / "celery.log", environment=environment))
        return started[-1]

    yield start
    for process in started:
        kill(process)


def run(*arguments: str, **options: Any) -> None:
    result = CliRunner().invoke(main, arguments, **options)
    assert result.exit_code == 0, result.output


def test_a_worker(
    stage: Settings,
    celery: Callable[..., subprocess.Popen[bytes]],
    emulator: str,
    recorder: Recorder,
    wait_until: Callable[..., None],
) -> None:
    os.environ["EMAIL_ATTACHMENT_PREFIXES"] = "s3://example-bucket/mail/"  # `put` and the worker check it
    direct = Settings(endpoint_url=emulator, stage=STAGE)
    sqs = client("sqs", direct)
    raw = sqs.get_queue_url(QueueName=direct.queue)["QueueUrl"]
    get_settings.cache_clear()
    s3 = client("s3", direct)
    s3.create_bucket(Bucket="example-bucket")
    s3.put_object(Bucket="example-bucket", Key="mail/a.pdf", Body=b"hello")
    file = {"name": "a.pdf", "content_type": "application/pdf", "s3_uri": "s3://example-bucket/mail/a.pdf"}
    run("put", input=json.dumps(pending_row("iam-1") | {"Attachments": [file]}))
    for body in ('{"email_id": "iam-1"}', "no JSON", '{"email_id": "no-row"}'):
        sqs.send_message(QueueUrl=raw, MessageBody=body)
    run("put", input=json.dumps(pending_row("iam-called-back")))
    callbacks = sqs.get_queue_url(QueueName=direct.callbacks_queue)["QueueUrl"]
    for body in (json.dumps(event("Delivery", "iam-called-back")), "no JSON"):
        sqs.send_message(QueueUrl=callbacks, MessageBody=body)
    recorder.seen.clear()
    worker = celery("worker", "--loglevel", "INFO", "--concurrency", "4")
    table = f"arn:aws:dynamodb:us-east-1:123456789012:table/{direct.table}"
    wait_until(lambda: ("dynamodb:UpdateItem", table) in recorder.seen)
    ids = [f"iam-grouped-{number}" for number in range(100)]
    write_rows(direct, pending_row(""), ids)
    enqueue_ids(find_raw_queue(direct), ids)
    grouped = {("dynamodb:BatchGetItem", table), ("dynamodb:PartiQLUpdate", table)}
    wait_until(lambda: grouped <= recorder.seen, what="threads share requests")
    wait_until(lambda: ("s3:GetObject", "arn:aws:s3:::example-bucket/mail/a.pdf") in recorder.seen)
    for dead_letters in (f"{direct.queue}_dlq", f"{direct.callbacks_queue}_dlq"):
        sent = ("sqs:SendMessage", f"arn:aws:sqs:us-east-1:123456789012:{dead_letters}")
        wait_until(lambda sent=sent: sent in recorder.seen)
    kept = ("dynamodb:PutItem", f"arn:aws:dynamodb:us-east-1:123456789012:table/{direct.events_table}")
    wait_until(lambda: kept in recorder.seen)
    asked = celery("inspect", "ping", "--timeout", "5")
    assert asked.wait(120) == 0
    left = leave_control_queue(sqs, direct.control_queue_prefix)
    reaped = ("sqs:DeleteQueue", f"arn:aws:sqs:us-east-1:123456789012:{left}")
    with beat():
        wait_until(lambda: reaped in recorder.seen)
    for number in range(400):  # more than the worker can finish, so that it gives some back
        sqs.send_message(QueueUrl=raw, MessageBody=json.dumps({"email_id": f"no-row-{number}"}))
    wait_until(lambda: message_counts(sqs, raw)[0] < 400)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert held_against("worker", recorder.seen) == NOTHING


BEAT = """
import sys
from tasks.app import app
app.conf.beat_schedule = {"reap": {"task": "tasks.reap", "schedule": 1.0}}
app.start(["beat", "--schedule", sys.argv[1], "--pidfile", ""])
"""


@contextmanager
def beat() -> Iterator[None]:
    """Run beat, which asks for nothing that its workers may not do."""
    with TemporaryDirectory() as folder:
        process = subprocess.Popen([sys.executable, "-c", BEAT, f"{folder}/schedule"], env=os.environ)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def test_flower(
    stage: Settings,
    celery: Callable[..., subprocess.Popen[bytes]],
    emulator: str,
    recorder: Recorder,
    wait_until: Callable[..., None],
) -> None:
    """It is a process that can do only what its policy allows, as on the laptop of somebody who watches production."""
    recorder.only = statements("flower")
    port = free_port()
    flower = celery("flower", f"--port={port}", "--basic-auth=ada:secret", EMAIL_FLOWER_ACTIONS="on")
    worker = celery("worker", "--loglevel", "WARNING", EMAIL_ENDPOINT_URL=emulator)
    direct = Settings(endpoint_url=emulator, stage=STAGE)
    sqs = client("sqs", direct)
    prefix = f"{stage.control_queue_prefix}celery"
    wait_until(lambda: len(sqs.list_queues(QueueNamePrefix=prefix).get("QueueUrls", [])) >= 2, what="both are there")
    cookies = urllib.request.HTTPCookieProcessor()
    opener = urllib.request.build_opener(cookies)

    def open_page(page: str, **form: str) -> str:
        """Open a page, or submit a form to it."""
        if form:
            (token,) = (cookie.value or "" for cookie in cookies.cookiejar if cookie.name == "_xsrf")
            form["_xsrf"] = token.strip('"')
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{page}", urlencode(form).encode() if form else None)
        request.add_header("Authorization", f"Basic {b64encode(b'ada:secret').decode()}")
        request.add_header("Origin", f"http://127.0.0.1:{port}")
        with opener.open(request, timeout=60) as answer:
            return str(answer.read().decode())

    def has_asked_the_worker() -> bool:
        open_page("api/workers?refresh=1")
        return "sqs:SendMessage" in {action for action, _ in recorder.seen}

    wait_until(lambda: is_open(f"http://127.0.0.1:{port}/healthcheck"), what="Flower answers")
    open_page("workers")
    wait_until(has_asked_the_worker)
    wait_until(lambda: json.loads(open_page("workers?json=1"))["data"], what="the worker knows that Flower watches")
    write_rows(direct, pending_row(""), ["seen-0"])
    enqueue_ids(find_raw_queue(direct), ["seen-0"])
    wait_until(lambda: "tasks.send_email" in open_page("email?id=seen-0"), what="Flower has seen the email")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0

    store = EmailStore.from_settings(direct)
    for email_id, status in (("seen-1", "Pending"), ("seen-2", "Failed"), ("seen-3", "Unknown")):
        store.put(pending_row(email_id) | {"EmailStatus": status})
    letters = sqs.get_queue_url(QueueName=f"{direct.queue}_dlq")["QueueUrl"]
    sqs.send_message(QueueUrl=letters, MessageBody='{"email_id": "seen-1"}')
    for page in ("broker", "emails", "email?id=seen-1", "dead-letters"):
        assert "AccessDenied" not in open_page(page).replace("CloudWatch answered with AccessDenied", "")
    assert "seen-1" in open_page("dead-letters")
    watching = set(recorder.seen)

    for email_id, action in (("seen-1", "cancel"), ("seen-2", "sent"), ("seen-3", "resend")):
        assert "AccessDeniedException" in open_page(f"email?id={email_id}", action=action)
    recorder.only = statements("flower") + statements("flower-operator")
    recorder.seen.clear()
    redriven = open_page("dead-letters", queue=f"{direct.queue}_dlq", all="yes")
    assert re.search(rf"[1-9]\d* moved back to {direct.queue}", redriven)
    for email_id, action in (("seen-1", "cancel"), ("seen-2", "sent"), ("seen-3", "resend")):
        assert 'id="done"' in open_page(f"email?id={email_id}", action=action)
    flower.send_signal(signal.SIGTERM)
    flower.wait(60)
    assert compare(recorder.only, recorder.seen, set())["missing"] == set()
    at_exit = {request for request in recorder.seen if request[0] == "sqs:DeleteQueue"}
    assert held_against("flower", watching | at_exit) == NOTHING
    assert compare(statements("flower-operator"), recorder.seen, set())["unseen"] == set()


def is_open(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def test_the_program_for_webhooks(stage: Settings, recorder: Recorder) -> None:
    with webhook_program.running(stage) as program:
        assert program.post("postmark", signed("postmark", POSTMARK[0].report)) == 200
    assert held_against("webhooks", recorder.seen) == NOTHING


def test_a_producer_and_an_operator(stage: Settings, recorder: Recorder, tmp_path: Path) -> None:
    run("put", input=json.dumps(pending_row("iam-2")))
    run("enqueue", "--no-check", "iam-2")  # a producer may not read rows
    assert held_against("producer", recorder.seen) == NOTHING
    recorder.seen.clear()
    sqs = client("sqs", stage)
    leave_control_queue(sqs, stage.control_queue_prefix)
    recorder.seen.clear()
    sqs.delete_queue(QueueUrl=sqs.get_queue_url(QueueName=f"{stage.queue}_dlq")["QueueUrl"])
    for table in (stage.table, stage.events_table):
        client("dynamodb", stage).delete_table(TableName=table)
    client("dynamodb", stage).create_table(TableName=stage.table, **PREDECESSORS_TABLE)
    recorder.seen.clear()
    run("provision", "--check", "--backfill")
    run("put", input=json.dumps(pending_row("iam-3")))
    run("enqueue", "iam-3")
    run("status", "iam-3")
    run("cancel", "iam-3")
    run("pause", "--reason", "provider down")
    run("resume")
    run("list")
    run("list", "--recipient", "ada@example.com")
    run("resolve", "--status", "Failed", "--resend", "--confirm", "1")
    run("cancel", "iam-3")
    run("resolve", "-", "--resend", "--confirm", "1", input="iam-3")
    run("sweep", "--position", str(tmp_path / "position"))
    run("reap")
    for number in range(2):
        url = sqs.get_queue_url(QueueName=f"{stage.queue}_dlq")["QueueUrl"]
        letter = sqs.send_message(QueueUrl=url, MessageBody=str(number))["MessageId"]
        recorder.seen.discard(("sqs:SendMessage", f"arn:aws:sqs:us-east-1:123456789012:{stage.queue}_dlq"))
        run("dead-letters", "list")
        run("dead-letters", "show", letter)
        run("dead-letters", *("redrive", letter) if number else ("discard", "--yes"))
    result = CliRunner().invoke(email_broker, ["--dry-run"])
    assert result.exit_code == 0, result.output
    assert held_against("operator", recorder.seen) == NOTHING
