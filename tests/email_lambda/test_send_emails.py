"""The failure table through the Lambda function, with real queues, real rows and the stub provider."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from botocore.endpoint import Endpoint
from pydantic import HttpUrl

from email_lambda.batch import Batch
from email_lambda.record import TOKENS_ATTRIBUTE
from email_lambda.steps import SendEmail
from emails.claim_tokens import claim_id, new_token
from emails.providers.stub import StubSettings
from emails.sender import Sender
from settings.model import S3_SECONDS
from tests.emails.callbacks.notifications import CONFIRMATIONS, confirmation
from tests.support.proxy import Proxy, Unanswered, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mypy_boto3_sqs import SQSClient

    from emails.store import EmailStore
    from settings import Settings
    from tests.email_lambda.conftest import Mapping

FAILURES = {
    "temporary@example.com": "temporary:1",
    "permanent@example.com": "permanent",
    "silent@example.com": "unknown",
}


@pytest.fixture
def _stub(set_environment: Callable[..., None], tmp_path: Path) -> None:
    set_environment(StubSettings(stub_outbox=tmp_path, stub_failures=FAILURES))


@pytest.fixture
def function(settings: Settings, sqs: SQSClient, _stub: None) -> Batch:
    told = settings.model_copy(update={"retry_delay": 1})
    return Batch(SendEmail(Sender.from_settings(told)), sqs)


def soon() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


def lately() -> str:
    return (datetime.now(UTC) - timedelta(hours=1)).isoformat()


class Case(NamedTuple):
    """The attributes of a row, its status at the end, and how many copies wait then."""

    attributes: dict[str, Any]
    status: str
    waiting: int


LEASED = {"EmailStatus": "Sending", "ClaimedBy": "another"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case({}, "Sent", waiting=0), id="to be sent"),
        pytest.param(Case({"RecipientsTo": ["permanent@example.com"]}, "Failed", waiting=0), id="permanent"),
        pytest.param(Case({"RecipientsTo": ["silent@example.com"]}, "Unknown", waiting=0), id="unknown"),
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


@pytest.mark.parametrize("kind", CONFIRMATIONS)
def test_what_sns_asks_of_a_person_is_a_dead_letter_with_its_advice(
    function: Batch, mapping: Mapping, kind: str
) -> None:
    mapping.send(confirmation(kind))
    assert mapping.invoke(function) == []
    (letter,) = mapping.dead_letters()
    assert letter["MessageAttributes"]["Reason"]["StringValue"] == kind
    assert "visit the SubscribeURL" in letter["MessageAttributes"]["Detail"]["StringValue"]


def test_a_message_that_comes_twice_sends_once(
    function: Batch, mapping: Mapping, store: EmailStore, row: dict[str, Any], tmp_path: Path
) -> None:
    store.put(row)
    body = json.dumps({"email_id": row["EmailId"]})
    mapping.send(body, body)
    assert mapping.invoke(function) == []
    assert (store.get(row["EmailId"]) or {})["Attempts"] == 1


class Fate:
    """Closes connections after DynamoDB has taken a claim, until `claims_are_answered` is set."""

    def __init__(self) -> None:
        self.claims_are_answered = False

    def __call__(self, _: str, action: str, body: bytes) -> str:
        if action == "UpdateItem" and not self.claims_are_answered and b"new_ClaimedBy" in body:
            raise Unanswered
        return ""


@pytest.mark.usefixtures("_stub")
def test_emails_whose_claims_got_no_answer_are_sent_once_and_counted_once(  # noqa: PLR0913 (fixtures)
    settings: Settings,
    mapping: Mapping,
    store: EmailStore,
    row: dict[str, Any],
    *,
    sqs: SQSClient,
    tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:
    def found() -> list[Any]:
        return [(each["EmailStatus"], each["Attempts"]) for each in (store.get(email_id) or {} for email_id in ids)]

    ids = [f"email-{number}" for number in range(10)]
    for email_id in ids:
        store.put({**row, "EmailId": email_id})
        mapping.send(json.dumps({"email_id": email_id}))
    fate = Fate()
    with running(Proxy(settings.endpoint or "", fate)) as proxy:
        told = settings.model_copy(update={"endpoint_url": HttpUrl(proxy.url)})
        function = Batch(SendEmail(Sender.from_settings(told)), sqs)
        wait_until(lambda: mapping.invoke(function) == [] and mapping.delayed() == len(ids))
        assert found() == [("Sending", 1)] * len(ids)
        fate.claims_are_answered = True
        wait_until(lambda: mapping.invoke(function) == [] and found() == [("Sent", 1)] * len(ids))
    assert len(list(tmp_path.iterdir())) == len(ids)


def test_of_two_deliveries_of_one_copy_one_takes_the_claim_over(
    function: Batch, mapping: Mapping, store: EmailStore, row: dict[str, Any], tmp_path: Path
) -> None:
    token = new_token()
    ours = {"EmailStatus": "Sending", "ClaimedBy": claim_id(token), "ClaimExpiresAt": 1, "Attempts": 1}
    store.put({**row, **ours})
    attribute = {TOKENS_ATTRIBUTE: {"DataType": "String", "StringValue": token}}
    body = json.dumps({"email_id": row["EmailId"]})
    mapping.send(body, body, MessageAttributes=attribute)
    assert mapping.invoke(function) == []
    sent = store.get(row["EmailId"]) or {}
    assert (sent["EmailStatus"], sent["Attempts"]) == ("Sent", 1)
    assert len(list(tmp_path.iterdir())) == 1


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
    """See docs/deploy.md, "What it costs". The requests of the event source mapping are not counted here."""
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
    longest = SendEmail(Sender.from_settings(settings)).longest
    assert SendEmail(Sender.from_settings(told)).longest == longest + S3_SECONDS
