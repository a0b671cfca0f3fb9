"""What happens to each message of an event. The queues are real, and the test decides how each body ends."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from celery_sqs.sqs.dead_letters import Reason
from email_lambda.batch import Batch, TimeoutTooShort
from email_lambda.record import TOKENS_ATTRIBUTE, WAIT_ATTRIBUTE
from emails.claim_tokens import new_token
from emails.outcome import DeadLetter, Done, RetryLater
from emails.status import EmailStatus
from emails.steps import Carried, wait_for_row
from emails.store import StoreRefused
from tests.email_lambda.conftest import Mapping, context, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_sqs import SQSClient

    from emails.claim_tokens import Tokens
    from emails.outcome import Outcome

SECRET = "ada@example.com"


SENT = Done(EmailStatus.SENT)
NOT_JSON = DeadLetter(Reason("NotJson", "the body is not JSON"))


class Step:
    """Ends for each body as the test says, or with what the test's function returns. Other bodies are sent."""

    def __init__(self, longest: float = 5, **told: Any) -> None:
        self.longest = longest
        self.told = told
        self.seen: list[str] = []
        self.carried: dict[str, list[Carried]] = {}

    def __call__(self, body: str, carried: Carried, ends_at: float) -> Outcome:
        self.seen.append(body)
        self.carried.setdefault(body, []).append(carried)
        told = self.told.get(body, SENT)
        if isinstance(told, list):
            told = told.pop(0)
        if isinstance(told, Exception):
            raise told
        outcome: Outcome = told(carried) if callable(told) else told
        return outcome

    def tokens(self) -> dict[str, list[Tokens]]:
        return {body: [each.tokens for each in carried] for body, carried in self.carried.items()}


@pytest.fixture
def function(sqs: SQSClient) -> Callable[[Step], Batch]:
    return lambda step: Batch(step, sqs)


@pytest.fixture
def sent(sqs: SQSClient, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return the list of the parameters of each SendMessage that the test's client makes."""
    seen: list[dict[str, Any]] = []
    send = sqs.send_message
    monkeypatch.setattr(sqs, "send_message", lambda **parameters: (seen.append(parameters), send(**parameters))[1])
    return seen


def test_an_event_without_messages_is_answered(function: Callable[[Step], Batch]) -> None:
    assert function(Step())({"Records": []}, context()) == {"batchItemFailures": []}


def test_what_is_settled_is_done(function: Callable[[Step], Batch], mapping: Mapping) -> None:
    mapping.send("a", "b")
    step = Step()
    assert mapping.invoke(function(step)) == []
    assert sorted(step.seen) == ["a", "b"]


def test_an_email_that_has_to_wait_waits_as_a_delayed_copy(
    function: Callable[[Step], Batch], mapping: Mapping, sent: list[dict[str, Any]]
) -> None:
    mapping.send("later", MessageAttributes={"traceparent": {"DataType": "String", "StringValue": "00-1-2-01"}})
    sent.clear()
    assert mapping.invoke(function(Step(later=RetryLater(7.2, "it is not due yet")))) == []
    assert mapping.delayed() == 1
    (copy,) = sent
    assert (copy["MessageBody"], copy["DelaySeconds"]) == ("later", 8)
    assert copy["MessageAttributes"]["traceparent"]["StringValue"] == "00-1-2-01"


def test_a_long_wait_hops(function: Callable[[Step], Batch], mapping: Mapping, sent: list[dict[str, Any]]) -> None:
    mapping.send("later")
    sent.clear()
    mapping.invoke(function(Step(later=RetryLater(10**6, "it is not due yet"))))
    assert [copy["DelaySeconds"] for copy in sent] == [900]


def test_a_copy_that_sqs_does_not_confirm_leaves_the_message_where_it_is(
    function: Callable[[Step], Batch], mapping: Mapping, sqs: SQSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, _ = mapping.send("later", "other")

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException"}}, "SendMessage")

    monkeypatch.setattr(sqs, "send_message", refuse)
    assert mapping.invoke(function(Step(later=RetryLater(1, "busy")))) == [later]


def test_all_of_an_event_may_come_back(
    function: Callable[[Step], Batch], mapping: Mapping, sqs: SQSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = mapping.send("later")
    monkeypatch.setattr(sqs, "send_message", lambda **_: 1 / 0)
    assert mapping.invoke(function(Step(later=RetryLater(1, "busy")))) == ids


def test_a_body_that_is_not_understood_is_a_dead_letter_unchanged_with_its_reason(
    function: Callable[[Step], Batch], mapping: Mapping
) -> None:
    mapping.send("bad", MessageAttributes={"mine": {"DataType": "Binary", "BinaryValue": b"\0\1"}})
    assert mapping.invoke(function(Step(bad=NOT_JSON))) == []
    (letter,) = mapping.dead_letters()
    assert letter["Body"] == "bad"
    attributes = letter["MessageAttributes"]
    assert attributes["Reason"]["StringValue"] == "NotJson"
    assert attributes["Detail"]["StringValue"] == "the body is not JSON"
    assert attributes["mine"]["BinaryValue"] == b"\0\1"


@pytest.mark.parametrize("error", [KeyError(SECRET), StoreRefused("too large")])
def test_what_nobody_foresaw_is_a_dead_letter_without_its_text(
    function: Callable[[Step], Batch], mapping: Mapping, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    mapping.send("crash")
    assert mapping.invoke(function(Step(crash=error))) == []
    (letter,) = mapping.dead_letters()
    reason = letter["MessageAttributes"]["Reason"]["StringValue"]
    assert (reason, SECRET in str(letter["MessageAttributes"])) == (type(error).__name__, False)
    assert SECRET not in caplog.messages[0]


def test_copies_carry_since_when_a_row_is_missing_until_the_message_is_a_dead_letter(
    function: Callable[[Step], Batch], mapping: Mapping, sent: list[dict[str, Any]]
) -> None:
    now = time.time()
    batch = function(Step(none=lambda carried: wait_for_row(carried.missing_since, now, 60)))
    mapping.send("none")
    (message,) = mapping.receive()
    delays: list[int] = []
    while True:
        assert batch({"Records": [record(message, mapping.queue)]}, context()) == {"batchItemFailures": []}
        copy = sent[-1]
        if "DelaySeconds" not in copy:
            break
        delays.append(copy["DelaySeconds"])
        now += delays[-1]
        message |= {"Body": copy["MessageBody"], "MessageAttributes": copy["MessageAttributes"]}
    assert delays == [1, 1, 2, 4, 8, 16, 28]
    (letter,) = mapping.dead_letters()
    assert letter["MessageAttributes"]["Reason"]["StringValue"] == "EmailNotFound"
    assert WAIT_ATTRIBUTE not in letter["MessageAttributes"], "sent back, it would be a dead letter at once"


def test_a_copy_counts_how_often_the_message_was_taken_up(
    function: Callable[[Step], Batch], mapping: Mapping, sent: list[dict[str, Any]]
) -> None:
    carried = json.dumps({"message_id": "first", "attempt": 1000, "missing_since": None})
    mapping.send("away", MessageAttributes={WAIT_ATTRIBUTE: {"DataType": "String", "StringValue": carried}})
    sent.clear()
    step = Step(away=RetryLater(1, "away", affects_all=True))
    assert mapping.invoke(function(step)) == []
    assert step.carried == {"away": [Carried(1000)]}
    (copy,) = sent
    assert json.loads(copy["MessageAttributes"][WAIT_ATTRIBUTE]["StringValue"]) == {
        "message_id": "first",
        "attempt": 1001,
        "missing_since": None,
    }


def test_the_tokens_of_a_message_go_to_the_step_and_on_to_its_copies(
    function: Callable[[Step], Batch], mapping: Mapping, sent: list[dict[str, Any]]
) -> None:
    first, second = new_token(), new_token()
    attribute = {TOKENS_ATTRIBUTE: {"DataType": "String", "StringValue": first}}
    unanswered = RetryLater(1, "away", affects_all=True, tokens=(first, second))
    step = Step(unanswered=unanswered, later=RetryLater(1, "busy"))
    mapping.send("unanswered", "later", MessageAttributes=attribute)
    sent.clear()
    assert mapping.invoke(function(step)) == []
    assert step.tokens() == {"unanswered": [(first,)], "later": [(first,)]}
    carried = {copy["MessageBody"]: copy["MessageAttributes"][TOKENS_ATTRIBUTE]["StringValue"] for copy in sent}
    assert carried == {"unanswered": f"{first} {second}", "later": first}


def test_without_time_for_a_send_the_rest_comes_back_untouched(
    function: Callable[[Step], Batch], mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, ahead = time.time(), 0.0
    monkeypatch.setattr("email_lambda.batch.time.time", lambda: start + ahead)

    def take_long(_: Carried) -> Outcome:
        nonlocal ahead
        ahead += 50.1
        return SENT

    bodies = ["first", "second", "third"]
    ids = mapping.send(*bodies)
    step = Step(first=take_long, second=take_long, third=take_long)
    back = mapping.invoke(function(step), seconds=60)
    assert len(step.seen) == 1
    assert back == [each for each, body in zip(ids, bodies, strict=True) if body not in step.seen]


def test_a_function_whose_timeout_is_shorter_than_a_send_says_so(
    function: Callable[[Step], Batch], mapping: Mapping
) -> None:
    mapping.send("a")
    with pytest.raises(TimeoutTooShort, match="should be at least 65 seconds"):
        mapping.invoke(function(Step(longest=60)), seconds=60)


def test_a_message_too_large_to_carry_its_wait_stays_on_its_queue(
    function: Callable[[Step], Batch], mapping: Mapping
) -> None:
    body = " " * 1_048_500
    ids = mapping.send(body)
    assert mapping.invoke(function(Step(**{body: RetryLater(1, "it has no row yet")}))) == ids


# FIFO.


def test_on_fifo_a_wait_holds_what_follows_in_its_group_and_nothing_else(
    function: Callable[[Step], Batch], fifo: Mapping, sqs: SQSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: list[float] = []
    change = sqs.change_message_visibility
    monkeypatch.setattr(
        sqs, "change_message_visibility", lambda **p: (hidden.append(p["VisibilityTimeout"]), change(**p))[1]
    )
    first, second = fifo.send("first", "second", MessageGroupId="one")
    fifo.send("other", MessageGroupId="two")
    step = Step(first=RetryLater(20.5, "it is not due yet"))
    assert fifo.invoke(function(step)) == [first, second]
    assert sorted(step.seen) == ["first", "other"]
    assert hidden == [21]


def test_on_fifo_messages_come_again_in_their_order(function: Callable[[Step], Batch], fifo: Mapping) -> None:
    fifo.send("first", "second", MessageGroupId="one")
    step = Step(first=RetryLater(0, "the row has changed"))
    fifo.invoke(function(step))
    del step.told["first"]
    fifo.come_back()
    assert fifo.invoke(function(step)) == []
    assert step.seen == ["first", "first", "second"]


def test_on_fifo_a_claim_that_got_no_answer_is_taken_over_while_there_is_time(
    function: Callable[[Step], Batch], fifo: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("email_lambda.batch.RETRY_SECONDS", 0)
    token = new_token()
    away = RetryLater(1, "away", affects_all=True, tokens=(token,))
    step = Step(unanswered=[away, away, RetryLater(0, "busy", tokens=(token,))])
    (message_id,) = fifo.send("unanswered", MessageGroupId="one")
    assert fifo.invoke(function(step)) == [message_id]
    assert step.tokens() == {"unanswered": [(), (token,), (token,)]}


def test_on_fifo_a_message_comes_back_when_there_is_no_more_time_to_take_its_claim_over(
    function: Callable[[Step], Batch], fifo: Mapping
) -> None:
    (message_id,) = fifo.send("unanswered", MessageGroupId="one")
    step = Step(unanswered=RetryLater(1, "away", affects_all=True, tokens=(new_token(),)))
    assert fifo.invoke(function(step), seconds=10.2) == [message_id]
    assert len(step.seen) == 1


def test_on_fifo_a_dead_letter_keeps_its_group(function: Callable[[Step], Batch], fifo: Mapping) -> None:
    fifo.send("bad", MessageGroupId="one")
    assert fifo.invoke(function(Step(bad=NOT_JSON))) == []
    (letter,) = fifo.dead_letters()
    assert letter["MessageAttributes"]["Reason"]["StringValue"] == "NotJson"
    assert letter["Attributes"]["MessageGroupId"] == "one"


# Logs.


def test_each_line_says_whose_it_is_and_none_quotes_a_body(
    function: Callable[[Step], Batch], mapping: Mapping, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[dict[str, Any]] = []

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from structlog.contextvars import get_contextvars  # noqa: PLC0415

            seen.append({"event": record.getMessage(), **get_contextvars()})

    caplog.set_level(logging.INFO)
    (message_id,) = mapping.send(SECRET)
    logger = logging.getLogger("email_lambda.batch")
    watch = Watch()
    logger.addHandler(watch)
    try:
        mapping.invoke(function(Step(**{SECRET: NOT_JSON})))
    finally:
        logger.removeHandler(watch)
    assert seen == [
        {
            "event": "dead letter: NotJson: the body is not JSON",
            "request_id": "request-1",
            "message_id": message_id,
            "attempt": 1,
        }
    ]


def test_an_outcome_is_logged_at_its_level(
    function: Callable[[Step], Batch], mapping: Mapping, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "email_lambda.batch")
    statuses = {"1": EmailStatus.SENT, "2": EmailStatus.FAILED, "3": EmailStatus.UNKNOWN}
    for body in statuses:
        mapping.send(body)
    mapping.invoke(function(Step(**{body: Done(status) for body, status in statuses.items()})))
    levels = {(record.levelname, record.getMessage()) for record in caplog.records}
    assert levels == {("INFO", "Sent"), ("WARNING", "Failed"), ("ERROR", "Unknown")}
