"""Ids are put on the raw queue, each of them once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from celery_sqs.sqs.batches import ATTEMPTS
from emails.message import parse_message
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.resources import ResourcesMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_sqs import SQSClient

    from celery_sqs.sqs.queue import Queue
    from settings import Settings

    QueueOn = Callable[["FailingSqs"], Queue]

IDS = [f"email-{number}" for number in range(25)]


class FailingSqs:
    """SQS, except that entries and requests fail as often as the test says."""

    def __init__(self, sqs: Any, failures: dict[str, int], errors: list[Exception] | None = None) -> None:
        self._sqs = sqs
        self._failures = failures
        self._errors = errors or []
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sqs, name)

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 (the name is SQS's)
        self.batches.append(len(Entries))
        if self._errors:
            raise self._errors.pop(0)
        failed = []
        for entry in list(Entries):
            email_id = json.loads(entry["MessageBody"])["email_id"]
            if self._failures.get(email_id, 0):
                self._failures[email_id] -= 1
                failed.append({"Id": entry["Id"], "Code": "InternalError", "SenderFault": False})
                Entries.remove(entry)
        answer: Any = self._sqs.send_message_batch(QueueUrl=QueueUrl, Entries=Entries) if Entries else {}
        return {"Successful": answer.get("Successful", []), "Failed": failed}


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_sqs.sqs.batches.FIRST_BACKOFF_SECONDS", 0)


@pytest.fixture
def arrived(raw_queue: Queue) -> Callable[[], list[str]]:
    """Return the ids on the raw queue, as the bridge task would read them."""

    def ids() -> list[str]:
        found = []
        while messages := raw_queue.receive(10, 0, 30):
            found += [parse_message(message["Body"]) for message in messages]
        return sorted(found)

    return ids


@pytest.fixture
def queue_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[FailingSqs], Queue]:
    """Return the raw queue, with this double in place of SQS."""

    def queue(sqs: FailingSqs) -> Queue:
        monkeypatch.setattr("emails.raw_queue.client", lambda *_: sqs)
        return find_raw_queue(settings)

    return queue


def test_each_id_is_one_raw_message_and_ten_of_them_one_request(
    sqs: SQSClient, queue_on: QueueOn, arrived: Callable[[], list[str]]
) -> None:
    counting = FailingSqs(sqs, {})
    counts: list[int] = []
    assert enqueue_ids(queue_on(counting), iter(IDS), counts.append) == {}
    assert counting.batches == counts == [10, 10, 5]
    assert arrived() == sorted(IDS)


def test_an_id_of_any_text_arrives_as_it_is(raw_queue: Queue, arrived: Callable[[], list[str]]) -> None:
    ids = ["Ünïcode 😀", '"quoted"', "a" * 190]
    assert enqueue_ids(raw_queue, ids) == {}
    assert arrived() == sorted(ids)


def test_what_sqs_does_not_take_is_sent_again_alone(
    sqs: SQSClient, queue_on: QueueOn, arrived: Callable[[], list[str]]
) -> None:
    failing = FailingSqs(sqs, {"email-3": 1, "email-7": 2})
    counts: list[int] = []
    assert enqueue_ids(queue_on(failing), IDS[:10], counts.append) == {}
    assert failing.batches == [10, 2, 1]
    assert counts == [10]
    assert arrived() == sorted(IDS[:10])


def test_what_sqs_never_takes_is_named_with_its_code(
    sqs: SQSClient, queue_on: QueueOn, arrived: Callable[[], list[str]]
) -> None:
    failing = FailingSqs(sqs, {"email-3": 99, "email-12": 99})
    counts: list[int] = []
    failed = enqueue_ids(queue_on(failing), IDS, counts.append)
    assert failed == {"email-3": "InternalError", "email-12": "InternalError"}
    assert counts == [9, 9, 5]
    assert failing.batches == [10, *[1] * (ATTEMPTS - 1), 10, *[1] * (ATTEMPTS - 1), 5]
    assert arrived() == sorted(set(IDS) - failed.keys())


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://localhost"),
        ClientError({"Error": {"Code": "RequestThrottled"}}, "SendMessageBatch"),
    ],
    ids=["away", "throttled"],
)
def test_a_request_that_fails_is_made_again(
    sqs: SQSClient, queue_on: QueueOn, arrived: Callable[[], list[str]], error: Exception
) -> None:
    failing = FailingSqs(sqs, {}, [error, error])
    assert enqueue_ids(queue_on(failing), IDS[:10]) == {}
    assert failing.batches == [10, 10, 10]
    assert arrived() == sorted(IDS[:10])


def test_where_sqs_stays_unavailable_every_id_is_named(sqs: SQSClient, queue_on: QueueOn) -> None:
    away = FailingSqs(sqs, {}, [EndpointConnectionError(endpoint_url="http://localhost")] * 99)
    failed = enqueue_ids(queue_on(away), IDS[:3])
    assert failed == dict.fromkeys(IDS[:3], "EndpointConnectionError")


def test_a_queue_that_is_not_there_is_named_with_the_command_that_makes_it(settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"stage": "elsewhere"})
    with pytest.raises(ResourcesMissing, match=r"no queue emails_elsewhere: .*email-service provision"):
        find_raw_queue(elsewhere)
