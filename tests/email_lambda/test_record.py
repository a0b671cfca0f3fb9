"""What the copies of a message carry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from celery_sqs.sqs.dead_letters import Reason
from email_lambda.record import WAIT_ATTRIBUTE, Record, Wait
from emails.claim_tokens import new_token
from emails.outcome import RetryLater
from emails.steps import Carried
from tests.email_lambda.conftest import record

LATER = RetryLater(1, "busy")


def message(queue: str = "emails", **attributes: dict[str, Any]) -> Record:
    received = {
        "MessageId": "id-1",
        "ReceiptHandle": "handle",
        "Body": "body",
        "Attributes": {"ApproximateReceiveCount": "3", "ApproximateFirstReceiveTimestamp": "1700000000000"},
        "MessageAttributes": attributes,
    }
    return Record(record(received, queue))


def string(text: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": text}


def test_a_copy_tells_the_next_function_how_long_it_has_waited() -> None:
    copy = message().copy(RetryLater(1, "it has no row yet", missing_since=1700000000.5))
    assert copy
    copied = message(**copy["MessageAttributes"])
    assert copied.wait == Wait("id-1", 2, 1700000000.5)
    assert copied.carried == Carried(2, 1700000000.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        '"text"',
        "{}",
        '{"message_id": "a", "attempt": "1"}',
        '{"message_id": 1, "attempt": 1}',
        '{"message_id": "a", "attempt": 1, "missing_since": "1"}',
        '{"message_id": "a", "attempt": 1, "more": 1}',
        '{"message_id": "ada@example.com", "attempt": 1}',
        "[" * 100_000,
    ],
)
def test_what_no_copy_of_ours_carries_is_no_wait(text: str) -> None:
    assert message(Wait=string(text)).wait == Wait("id-1", 1)


def test_the_wait_comes_before_the_tenth_attribute_of_the_producer() -> None:
    copy = message(**{f"mine{number}": string("x") for number in range(10)}).copy(LATER)
    assert copy
    assert len(copy["MessageAttributes"]) == 10
    assert json.loads(copy["MessageAttributes"][WAIT_ATTRIBUTE]["StringValue"])["attempt"] == 2


def test_a_copy_carries_the_tokens_of_claims_beside_the_wait_that_older_functions_read() -> None:
    tokens, wait = (new_token(), new_token()), Wait("id-1", 2)
    copy = message().copy(RetryLater(1, "away", tokens=tokens))
    assert copy
    received = message(**copy["MessageAttributes"])
    assert (received.carried.tokens, received.wait) == (tokens, wait)
    assert json.loads(copy["MessageAttributes"][WAIT_ATTRIBUTE]["StringValue"]).keys() == {
        "message_id",
        "attempt",
        "missing_since",
    }


def test_a_message_without_claims_to_take_over_carries_no_tokens() -> None:
    copy = message().copy(LATER)
    assert copy
    assert copy["MessageAttributes"].keys() == {WAIT_ATTRIBUTE}
    assert message().carried == Carried()


def test_the_wait_comes_before_the_tokens_where_there_is_room_for_one() -> None:
    record_of_much = message()
    record_of_much.body = " " * 1_048_400
    copy = record_of_much.copy(RetryLater(1, "away", tokens=tuple(new_token() for _ in range(8))))
    assert copy
    assert copy["MessageAttributes"].keys() == {WAIT_ATTRIBUTE}


@pytest.mark.parametrize("attribute", [string("no token"), {"DataType": "Binary", "BinaryValue": b"\0"}], ids=repr)
def test_what_is_no_token_is_none(attribute: dict[str, Any]) -> None:
    assert message(ClaimTokens=attribute).carried.tokens == ()


def test_a_dead_letter_carries_no_tokens() -> None:
    letter = message(ClaimTokens=string(new_token())).dead_letter(Reason("Code", "detail"))
    assert letter["MessageAttributes"].keys() == {"Reason", "Detail"}


def test_on_fifo_sqs_counts() -> None:
    assert message("emails.fifo").wait == Wait("id-1", 3, 1700000000)


def test_a_dead_letter_that_was_sent_back_has_its_new_reason() -> None:
    letter = message(Reason=string("Old"), Detail=string("old")).dead_letter(Reason("New", "new"))
    assert {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()} == {
        "Reason": "New",
        "Detail": "new",
    }
