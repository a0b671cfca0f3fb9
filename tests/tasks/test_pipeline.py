"""From raw messages to sent emails and dead letters, with a real worker."""

from __future__ import annotations

import base64
import json
import math
import pickle
import uuid
from email import message_from_bytes, policy
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Retry
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emails.claim_tokens import new_token
from emails.decide import Send
from emails.email import Email
from emails.outcome import Done, RetryLater
from settings import Settings
from settings.model import dead_letter_queue
from tasks import pipeline as pipeline_module
from tests.emails.callbacks.notifications import CONFIRMATIONS, confirmation
from tests.support.pipeline import another_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emails.dead_letters import ReceivedDeadLetter
    from tests.support.pipeline import Pipeline

Row = dict[str, Any]


def test_a_raw_message_becomes_a_sent_email(pipeline: Pipeline, row: Row) -> None:
    row["Subject"] = "Grüße \U0001f389"
    pipeline.store.put(row)
    pipeline.send_raw(json.dumps({"email_id": row["EmailId"]}))
    pipeline.wait_until(lambda: pipeline.status(row) == "Sent")
    written = [message_from_bytes(file.read_bytes(), policy=policy.default) for file in pipeline.outbox.glob("*.eml")]
    assert [message["To"] for message in written if message["Subject"] == row["Subject"]] == ["ada@example.com"]


def test_an_email_enqueued_twice_is_sent_once(pipeline: Pipeline, row: Row) -> None:
    pipeline.store.put(row)
    pipeline.enqueue(row["EmailId"])
    pipeline.wait_until(lambda: pipeline.status(row) == "Sent")
    pipeline.enqueue(row["EmailId"])
    pipeline.wait_until(lambda: "already Sent" in pipeline.said(row["EmailId"]))
    assert pipeline.said(row["EmailId"]) == ["Sent", "already Sent"]


def test_each_line_about_an_email_says_by_which_message_and_task_and_which_attempt(
    pipeline: Pipeline, row: Row
) -> None:
    row["RecipientsTo"] = ["temporary@example.com"]
    pipeline.store.put(row)
    message_id = pipeline.send_raw(json.dumps({"email_id": row["EmailId"]}))
    pipeline.wait_until(lambda: "Sent" in pipeline.said(row["EmailId"]))
    waits, sent = pipeline.lines(row["EmailId"])
    assert waits["event"].startswith("next try in ")
    assert (waits["attempt"], waits["sends"], sent["attempt"], sent["sends"]) == (1, 1, 2, 2)
    for line in (waits, sent):
        assert (line["message_id"], line["task"], line["level"]) == (message_id, "tasks.send_email", "info")
    assert waits["task_id"] == sent["task_id"]


@pytest.mark.parametrize(
    ("recipient", "ends", "attempts"),
    [
        ("permanent@example.com", "Failed", 1),
        ("temporary@example.com", "Sent", 2),
        ("silent@example.com", "Unknown", 1),
    ],
    ids=["permanent", "temporary", "unknown"],
)
def test_what_the_provider_answers_decides_the_status(
    pipeline: Pipeline, row: Row, recipient: str, ends: str, attempts: int
) -> None:
    row["RecipientsTo"] = [recipient]
    pipeline.store.put(row)
    pipeline.enqueue(row["EmailId"])

    def ended() -> bool:
        found = pipeline.store.get(row["EmailId"]) or {}
        return (found["EmailStatus"], found.get("Attempts")) == (ends, attempts)

    pipeline.wait_until(ended)


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"RecipientsTo": []}, "Recipients"),
        ({"RecipientsTo": ["nobody"]}, "RecipientsTo[0]"),
        ({"Subject": "Hello\r\nBcc: everybody@example.com"}, "Subject"),
        ({"Headers": {"X-Shop": "a\nb"}}, "Headers.X-S…"),
        ({"Subject": 7}, "Subject"),
        ({"Attachments": [{"name": "a", "content_type": "text/plain", "body": "!"}]}, "Attachments[0].body"),
    ],
    ids=["no recipient", "no @", "CRLF in subject", "LF in header", "wrong type", "bad attachment"],
)
def test_a_row_that_cannot_be_mapped_fails_with_the_attribute_named(
    pipeline: Pipeline, row: Row, attributes: Row, named: str
) -> None:
    pipeline.store.put({**row, **attributes})
    pipeline.enqueue(row["EmailId"])
    pipeline.wait_until(lambda: pipeline.status(row) == "Failed")
    assert (pipeline.store.get(row["EmailId"]) or {})["FailureReason"].startswith(named)


def celery_message(task: str, *args: object) -> dict[str, Any]:
    """Return a message as kombu's SQS transport publishes it."""
    task_id = str(uuid.uuid4())
    return {
        "body": json.dumps([args, {}, {}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "retries": 0},
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": "x"},
            "delivery_tag": "y",
            "body_encoding": "utf-8",
        },
    }


def pickled(content: object) -> dict[str, Any]:
    message = celery_message("tasks.process_email")
    message["content-type"] = "application/x-python-serialize"
    message["content-encoding"] = "binary"
    message["body"] = base64.b64encode(pickle.dumps(content)).decode()
    message["properties"]["body_encoding"] = "base64"
    return message


BAD_BODIES = {
    "not JSON": ("hello", "NotJson"),
    "no object": ("[1]", "NotAnObject"),
    "no email_id": ("{}", "NoEmailId"),
    "wrong type": ('{"email_id": 7}', "InvalidEmailId"),
    "blank": ('{"email_id": "  "}', "InvalidEmailId"),
    "too long": (json.dumps({"email_id": "x" * 191}), "InvalidEmailId"),
    "control characters": ('{"email_id": "a\\u0000b"}', "InvalidEmailId"),
    "nested deeply": ("[" * 100_000, "NotJson"),
    **{kind: (confirmation(kind), kind) for kind in CONFIRMATIONS},
    "an envelope of a known task": (json.dumps(celery_message("tasks.process_email", "x")), "NoEmailId"),
    "an envelope of an unknown task": (json.dumps(celery_message("os.system", "x")), "NoEmailId"),
    "a pickle envelope": (json.dumps(pickled(["x"])), "NoEmailId"),
    "a corrupt envelope": (json.dumps({**celery_message("tasks.process_email"), "properties": 1}), "NoEmailId"),
}


def has_nonce(letter: ReceivedDeadLetter, nonce: str) -> bool:
    return letter.attributes.get("nonce", {}).get("StringValue") == nonce


@pytest.mark.parametrize(("body", "reason"), BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_raw_body_is_a_dead_letter_with_its_reason_and_its_body_unchanged(
    pipeline: Pipeline, body: str, reason: str
) -> None:
    nonce = uuid.uuid4().hex
    attribute = {"nonce": {"DataType": "String", "StringValue": nonce}}
    pipeline.send_raw(body, MessageAttributes=attribute)
    letter = pipeline.find_dead_letter(lambda letter: has_nonce(letter, nonce))
    assert (letter.reason, letter.body) == (reason, body)
    assert letter.detail


def test_a_body_of_one_mebibyte_is_a_dead_letter_though_no_reason_fits_beside_it(pipeline: Pipeline) -> None:
    body = "x" * 1_048_576
    pipeline.send_raw(body)
    assert pipeline.find_dead_letter(lambda letter: letter.body == body).reason == "MaxReceives"


BAD_TASK_MESSAGES = {
    "no JSON": "hello",
    "no object": "[1]",
    "no envelope": "{}",
    "properties of a wrong type": json.dumps({**celery_message("tasks.process_email"), "properties": 1}),
    "headers of a wrong type": json.dumps({**celery_message("tasks.process_email"), "headers": "x"}),
    "a body that is no JSON": json.dumps({**celery_message("tasks.process_email"), "body": "{"}),
    "an unknown task": json.dumps(celery_message("os.system", "x")),
    "pickle": json.dumps(pickled([["x"], {}, {}])),
    "too many arguments": json.dumps(celery_message("tasks.process_email", 1, 2, 3)),
    "no arguments": json.dumps({**celery_message("tasks.process_email"), "body": "7"}),
    "an empty body": json.dumps({**celery_message("tasks.process_email"), "body": "[]"}),
    "no task id": json.dumps({**celery_message("tasks.process_email"), "headers": {"task": "tasks.process_email"}}),
    "a task name that is not a string": json.dumps(celery_message(["x"], "x")),
}


@pytest.mark.parametrize("body", BAD_TASK_MESSAGES.values(), ids=BAD_TASK_MESSAGES)
def test_a_bad_message_on_the_tasks_queue_is_a_dead_letter_too(pipeline: Pipeline, body: str) -> None:
    nonce = uuid.uuid4().hex
    attribute = {"nonce": {"DataType": "String", "StringValue": nonce}}
    pipeline.send(pipeline.settings.tasks_queue, body, MessageAttributes=attribute)
    letter = pipeline.find_dead_letter(lambda letter: has_nonce(letter, nonce))
    assert letter.queue == dead_letter_queue(pipeline.settings.tasks_queue)
    assert letter.body == body
    assert letter.reason != "MaxReceives"


# These are the characters that SQS accepts in a body (SendMessage, "MessageBody").
sqs_text = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x10FFFF, exclude_categories=["Cs"]).filter(
        lambda c: c not in "\ufffe\uffff"
    ),
    min_size=1,
    max_size=300,
)


@given(bodies=st.lists(sqs_text, min_size=5, max_size=10, unique=True))
@hypothesis_settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_text_a_producer_sends_ends_in_the_dead_letters(pipeline: Pipeline, bodies: list[str]) -> None:
    sent = {pipeline.send_raw(body): body for body in bodies}
    for body in sent.values():
        assert pipeline.find_dead_letter(lambda letter, body=body: letter.body == body).reason in {
            "NotJson",
            "NotAnObject",
        }


def test_an_id_without_a_row_waits_for_it(pipeline: Pipeline, row: Row) -> None:
    pipeline.enqueue(row["EmailId"])
    pipeline.wait_until(lambda: pipeline.said(row["EmailId"]))
    assert pipeline.said(row["EmailId"])[0] == "next try in 1.0 s: it has no row yet"
    pipeline.store.put(row)
    pipeline.wait_until(lambda: pipeline.status(row) == "Sent")


def test_an_id_whose_row_never_comes_is_a_dead_letter(pipeline: Pipeline) -> None:
    email_id = f"never-{uuid.uuid4().hex}"
    pipeline.enqueue(email_id)
    assert pipeline.find_dead_letter(lambda letter: email_id in letter.body).reason == "EmailNotFound"


@pytest.mark.slow
def test_whatever_a_message_says_of_since_when_its_row_is_missing_it_is_waited_for_no_longer(
    pipeline: Pipeline,
) -> None:
    said = (4e9, math.nan, "tomorrow")
    sent = []
    for task, since in product(("tasks.load_email", "tasks.send_email"), said):
        message = celery_message(task, email_id := f"never-{uuid.uuid4().hex}", since)
        message["properties"]["delivery_info"]["routing_key"] = pipeline.settings.tasks_queue  # a retry goes there
        pipeline.send(pipeline.settings.tasks_queue, json.dumps(message))
        sent.append(email_id)
    for email_id in sent:
        letter = pipeline.find_dead_letter(lambda letter, email_id=email_id: email_id in letter.body)
        assert letter.reason == "EmailNotFound"


def test_another_celery_program_may_start_process_email(pipeline: Pipeline, row: Row) -> None:
    pipeline.store.put(row)
    program = another_program(pipeline.settings, transport="sqs")
    program.conf.task_create_missing_queues = True
    program.send_task("tasks.process_email", [row["EmailId"]], queue=pipeline.settings.tasks_queue)
    pipeline.wait_until(lambda: pipeline.status(row) == "Sent")


class Ending:
    """A sender that ends every step in the same way."""

    def __init__(self, outcome: object) -> None:
        self.settings = Settings()
        self.load = self.send = lambda *_: outcome


@pytest.fixture
def retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Return how the two tasks are retried. Each has another program's header, and load_email runs first."""
    seen: list[dict[str, Any]] = []

    def retry(args: object, **options: Any) -> BaseException:
        seen.append({"args": args, **options})
        return Retry("x")

    tasks = (pipeline_module.load_email, pipeline_module.send_email)
    for task in tasks:
        monkeypatch.setattr(task, "retry", retry)
        task.push_request(headers={"team": "shop"}, chain=["send_email"], retries=0)
    yield seen
    for task in tasks:
        task.pop_request()


@pytest.mark.parametrize("task", ["load_email", "send_email"])
def test_a_retry_carries_since_when_the_row_is_missing_and_the_tokens_of_claims(
    retries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    tokens = (new_token(), new_token())
    for outcome in (RetryLater(7, "it has no row yet", missing_since=5.5), RetryLater(1000, "away", tokens=tokens)):
        monkeypatch.setattr(pipeline_module, "get_sender", lambda outcome=outcome: Ending(outcome))
        with pytest.raises(Retry):
            getattr(pipeline_module, task).run("email-1")
    assert retries == [
        {"args": ("email-1", 5.5), "countdown": 7, "headers": {"team": "shop"}},
        {"args": ("email-1", None), "countdown": 900, "headers": {"team": "shop", "claim_tokens": " ".join(tokens)}},
    ]
    assert pipeline_module.load_email.request.chain == ["send_email"], "the copy goes on from where it is"


def test_nothing_follows_a_load_that_is_done(retries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "get_sender", lambda: Ending(Done(detail="already Sent")))
    assert pipeline_module.load_email.run("email-1") == "already Sent"
    assert pipeline_module.load_email.request.chain is None
    assert retries == []


def test_a_load_of_an_email_that_may_be_sent_gives_its_id_to_what_follows(
    retries: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, row: Row
) -> None:
    monkeypatch.setattr(pipeline_module, "get_sender", lambda: Ending(Send(Email.from_row(row))))
    assert pipeline_module.load_email.run("email-1") == "email-1"
    assert pipeline_module.load_email.request.chain == ["send_email"]
