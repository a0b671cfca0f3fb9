"""Callbacks through the Lambda function, with real queues and real rows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from email_lambda.batch import Batch
from email_lambda.steps import RecordCallback
from emails.store import StoreUnavailable
from emails.tracking import Tracking
from tests.email_lambda.conftest import Mapping
from tests.emails.callbacks.notifications import CONFIRMATIONS, RECIPIENT, by_sns, confirmation, event

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from emails.store import EmailStore, EventStore
    from settings import Settings


@pytest.fixture
def callbacks(sqs: SQSClient, settings: Settings) -> Mapping:
    return Mapping(sqs, settings.callbacks_queue)


@pytest.fixture
def function(settings: Settings, sqs: SQSClient) -> Batch:
    return Batch(RecordCallback(Tracking.from_settings(settings)), sqs)


def test_a_callback_moves_the_row_and_is_in_the_history(
    function: Batch, callbacks: Mapping, store: EmailStore, events: EventStore, row: dict[str, Any]
) -> None:
    store.put({**row, "EmailStatus": "Sent"})
    callbacks.send(json.dumps(event("Delivery", row["EmailId"])), by_sns(event("Complaint", row["EmailId"])))
    assert callbacks.invoke(function) == []
    assert (store.get(row["EmailId"]) or {})["EmailStatus"] == "Complained"
    assert [each["Recipient"] for each in events.of(row["EmailId"])] == [RECIPIENT, RECIPIENT]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("no JSON", "NotJson"),
        ("{}", "UnknownCallback"),
        (json.dumps(event("Delivery", "no-row")), "EmailNotFound"),
        *((confirmation(kind), kind) for kind in CONFIRMATIONS),
    ],
)
def test_what_no_row_explains_is_a_dead_letter(function: Batch, callbacks: Mapping, body: str, reason: str) -> None:
    callbacks.send(body)
    assert callbacks.invoke(function) == []
    (letter,) = callbacks.dead_letters()
    assert (letter["Body"], letter["MessageAttributes"]["Reason"]["StringValue"]) == (body, reason)


def test_that_ses_tries_its_topic_is_no_dead_letter(function: Batch, callbacks: Mapping) -> None:
    callbacks.send("Successfully validated SNS topic for Amazon SES event publishing.")
    assert callbacks.invoke(function) == []
    assert callbacks.dead_letters() == []


def test_while_dynamodb_is_away_a_callback_waits_with_its_body_unchanged(
    function: Batch, callbacks: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr("emails.tracking.Tracking.record", away)
    callbacks.send(json.dumps(event("Delivery", "an-email")))
    assert callbacks.invoke(function) == []
    assert callbacks.delayed() == 1
    assert callbacks.dead_letters() == []
