"""The failure table by messages through the function: real queues, real rows, the stub provider."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from botocore.endpoint import Endpoint

from email_lambda.batch import Batch
from email_lambda.send_emails import SendEmail
from settings.model import S3_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_sqs import SQSClient

    from emails.store import EmailStore
    from settings import Settings
    from tests.email_lambda.conftest import Mapping

FAILURES = {
    "temporary@example.com": "temporary:1",
    "permanent@example.com": "permanent",
    "silent@example.com": "no-telling",
}


@pytest.fixture
def function(settings: Settings, sqs: SQSClient, tmp_path: Path) -> Batch:
    told = settings.model_copy(update={"stub_outbox": tmp_path, "stub_failures": FAILURES, "retry_delay": 1})
    return Batch(SendEmail.from_settings(told), sqs, missing_row_wait=60)


def soon() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def lately() -> str:
    return (datetime.now(UTC) - timedelta(hours=1)).isoformat()


class Case(NamedTuple):
    """What the row says, what its status is at the end, and how many copies wait then."""

    attributes: dict[str, Any]
    status: str
    waiting: int


LEASED = {"EmailStatus": "Sending", "ClaimedBy": "another"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case({}, "Sent", waiting=0), id="to be sent"),
        pytest.param(Case({"RecipientsTo": ["permanent@example.com"]}, "Failed", waiting=0), id="permanent"),
        pytest.param(Case({"RecipientsTo": ["silent@example.com"]}, "Unknown", waiting=0), id="no telling"),
        pytest.param(Case({"RecipientsTo": ["temporary@example.com"]}, "Pending", waiting=1), id="temporary"),
        pytest.param(Case({"RecipientsTo": []}, "Failed", waiting=0), id="cannot be mapped"),
        pytest.param(Case({"ExpiresAt": lately()}, "Failed", waiting=0), id="expired"),
        pytest.param(Case({"SendAfter": soon()}, "Pending", waiting=1), id="not due"),
        pytest.param(
            Case({**LEASED, "ClaimExpiresAt": int(time.time()) + 3600}, "Sending", waiting=1), id="lease alive"
        ),
        pytest.param(Case({**LEASED, "ClaimExpiresAt": 1}, "Unknown", waiting=0), id="lease expired"),
        pytest.param(Case({"EmailStatus": "Sent"}, "Sent", waiting=0), id="already sent"),
        pytest.param(Case({"EmailStatus": "Draft"}, "Draft", waiting=0), id="the producer's own status"),
    ],
)
def test_each_row_ends_as_by_a_worker(
    function: Batch, mapping: Mapping, store: EmailStore, row: dict[str, Any], case: Case
) -> None:
    store.put({**row, **case.attributes})
    mapping.send(json.dumps({"email_id": row["EmailId"]}))
    assert mapping.invoke(function) == []
    assert (store.get(row["EmailId"]) or {})["EmailStatus"] == case.status
    assert mapping.delayed() == case.waiting
    assert mapping.dead_letters() == []


def test_an_email_without_a_row_is_waited_for(function: Batch, mapping: Mapping) -> None:
    mapping.send('{"email_id": "none"}')
    assert mapping.invoke(function) == []
    assert mapping.delayed() == 1


def test_a_bad_message_between_good_ones_harms_none(
    function: Batch, mapping: Mapping, store: EmailStore, row: dict[str, Any]
) -> None:
    for number in range(2):
        store.put({**row, "EmailId": f"good-{number}"})
    mapping.send('{"email_id": "good-0"}', "no JSON", '{"email_id": "good-1"}')
    assert mapping.invoke(function) == []
    assert [(store.get(f"good-{number}") or {})["EmailStatus"] for number in range(2)] == ["Sent", "Sent"]
    assert [letter["Body"] for letter in mapping.dead_letters()] == ["no JSON"]


def test_a_message_that_comes_twice_sends_once(
    function: Batch, mapping: Mapping, store: EmailStore, row: dict[str, Any], tmp_path: Path
) -> None:
    store.put(row)
    body = json.dumps({"email_id": row["EmailId"]})
    mapping.send(body, body)
    assert mapping.invoke(function) == []
    assert (store.get(row["EmailId"]) or {})["Attempts"] == 1


def test_a_row_that_is_not_to_be_sent_now_costs_no_write(
    function: Batch, mapping: Mapping, store: EmailStore, row: dict[str, Any]
) -> None:
    store.put({**row, "SendAfter": soon()})
    mapping.send(json.dumps({"email_id": row["EmailId"]}))
    mapping.invoke(function)
    assert "UpdatedAt" not in (store.get(row["EmailId"]) or {})


def test_ten_emails_cost_the_requests_by_which_the_docs_reckon(
    function: Batch, mapping: Mapping, store: EmailStore, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/deploy.md, "What it costs". What the event source mapping asks SQS is beside these."""
    for number in range(10):
        store.put({**row, "EmailId": f"email-{number}"})
        mapping.send(json.dumps({"email_id": f"email-{number}"}))
    asked: Counter[str] = Counter()
    send = Endpoint.make_request

    def count(endpoint: Endpoint, operation: Any, request: Any) -> Any:
        asked[operation.name] += 1
        return send(endpoint, operation, request)

    monkeypatch.setattr(Endpoint, "make_request", count)
    assert mapping.invoke(function) == []
    del asked["ReceiveMessage"], asked["DeleteMessage"]
    assert asked == {"GetItem": 10, "UpdateItem": 20}


def test_a_function_that_fetches_files_leaves_itself_the_time_for_it(settings: Settings) -> None:
    told = settings.model_copy(update={"attachment_prefixes": ("s3://mail/",)})
    assert SendEmail.from_settings(told).longest == SendEmail.from_settings(settings).longest + S3_SECONDS
