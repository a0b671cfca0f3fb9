"""What each failure of a step leads to, whichever program takes the step."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

import pytest

from celery_sqs.sqs.dead_letters import Reason
from emails import steps
from emails.claim_tokens import new_token
from emails.decide import Send
from emails.email import Email
from emails.encoded_id import encoded_id
from emails.outcome import DeadLetter, Done, RetryLater
from emails.sender import EmailNotFound
from emails.status import EmailStatus
from emails.steps import Carried, wait_for_row
from emails.store import ClaimUnanswered, StoreRefused, StoreUnavailable
from settings import Settings
from tests.emails.callbacks.notifications import CONFIRMATIONS, confirmation, event
from tests.emails.webhooks.examples import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from emails.outcome import Outcome

    Take = Callable[..., Send | Outcome]

NOW = 1_700_000_000.0
SENT = Done(EmailStatus.SENT, provider="stub")


class Sender:
    """A sender that ends as the test says."""

    def __init__(self, told: object) -> None:
        self.settings = Settings()
        self.told = told
        self.asked: list[tuple[object, ...]] = []

    def load(self, email_id: str) -> object:
        return self._end(email_id)

    def send(self, *arguments: object) -> object:
        return self._end(*arguments)

    def _end(self, *arguments: object) -> object:
        self.asked.append(arguments)
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


class Tracking:
    """A tracking that ends as the test says."""

    def __init__(self, told: object) -> None:
        self.told = told

    def record(self, events: object) -> object:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


@pytest.fixture(params=["load", "send"])
def take(request: pytest.FixtureRequest) -> Take:
    """Return a function that takes either step with a sender that ends as the test says."""

    def take(told: object, carried: Carried) -> Send | Outcome:
        outcome: Send | Outcome = getattr(steps, request.param)(Sender(told), "email-1", carried)
        return outcome

    return take


# The body of a raw message.


def test_a_body_that_names_an_email_is_its_id() -> None:
    assert steps.read('{"email_id": "email-1"}') == "email-1"


@pytest.mark.parametrize(
    ("body", "code"),
    [("no JSON", "NotJson"), ("{}", "NoEmailId"), *((confirmation(kind), kind) for kind in CONFIRMATIONS)],
)
def test_a_body_that_is_not_understood_is_a_dead_letter_with_its_reason(body: str, code: str) -> None:
    letter = steps.read(body)
    assert isinstance(letter, DeadLetter)
    assert letter.reason.code == code
    assert letter.reason.detail


# The sender's result is the outcome.


def test_an_outcome_of_the_sender_is_the_step_s(take: Take) -> None:
    for outcome in (SENT, RetryLater(7, "it is not due yet")):
        assert take(outcome, Carried()) is outcome


def test_an_email_that_may_be_sent_is_no_outcome_yet(row: dict[str, Any]) -> None:
    decision = Send(Email.from_row(row))
    assert steps.load(Sender(decision), "email-1", Carried()) is decision  # type: ignore[arg-type]  # it is a double


def test_a_send_gets_the_tokens_that_the_message_carries_and_the_end_of_the_process() -> None:
    sender, tokens = Sender(SENT), (new_token(),)
    steps.send(sender, "email-1", Carried(2, NOW, tokens), NOW)  # type: ignore[arg-type]  # it is a double
    assert sender.asked == [("email-1", NOW, tokens)]


@pytest.mark.parametrize("error", [StoreRefused("too large"), KeyError("x")], ids=repr)
def test_what_nobody_foresaw_is_raised(take: Take, error: Exception) -> None:
    with pytest.raises(type(error)):
        take(error, Carried())


# There is no such row.


def test_a_row_that_is_missing_is_waited_for_since_it_was_first_missed(take: Take) -> None:
    before = time.time()
    first = take(EmailNotFound(), Carried())
    assert isinstance(first, RetryLater)
    assert (first.seconds, first.reason, first.affects_all) == (1, "it has no row yet", False)
    assert before <= (first.missing_since or 0) <= time.time()
    second = take(EmailNotFound(), Carried(2, before - 20))
    assert isinstance(second, RetryLater)
    assert second.missing_since == before - 20
    assert second.seconds == pytest.approx(20, abs=1)


def test_a_row_that_does_not_come_is_a_dead_letter(take: Take) -> None:
    letter = DeadLetter(Reason("EmailNotFound", "no row appeared within 60 seconds"))
    assert take(EmailNotFound(), Carried(9, time.time() - 60)) == letter


@pytest.mark.parametrize(("waited", "seconds"), [(0, 1), (1, 1), (20, 20), (40, 20), (59.5, 0.5)])
def test_a_row_is_waited_for_twice_as_long_each_time_and_no_longer_than_allowed(waited: float, seconds: float) -> None:
    since = NOW - waited
    assert wait_for_row(since, NOW, longest=60) == RetryLater(seconds, "it has no row yet", missing_since=since)


@pytest.mark.parametrize("moment", [NOW, NOW - 1, int(NOW), 0.5])
def test_a_row_may_be_missing_since_any_time_until_now(moment: float) -> None:
    wait = wait_for_row(moment, NOW, longest=math.inf)
    assert isinstance(wait, RetryLater)
    assert wait.missing_since == moment


@pytest.mark.parametrize(
    "moment",
    [NOW + 1, 10**400, math.inf, -math.inf, math.nan, 0, -1, -(10**400), True, "1700000000", None, [], {}],
    ids=str,
)
def test_a_row_cannot_be_missing_since_tomorrow_nor_since_what_is_no_time(moment: object) -> None:
    assert wait_for_row(moment, NOW, longest=60) == RetryLater(1, "it has no row yet", missing_since=NOW)


# DynamoDB throttles or is unavailable.


def test_dynamodb_is_waited_for_however_long_and_at_most_a_quarter_of_an_hour_at_a_time(take: Take) -> None:
    waits = [take(StoreUnavailable("away"), Carried(1000)) for _ in range(100)]
    assert {str(wait).partition(": ")[2] for wait in waits} == {"away"}
    assert all(isinstance(wait, RetryLater) and wait.affects_all and wait.missing_since is None for wait in waits)
    assert 450 < max(wait.seconds for wait in waits if isinstance(wait, RetryLater)) <= 900


def test_a_claim_that_got_no_answer_leaves_its_tokens_for_the_next_try(take: Take) -> None:
    old, new = (new_token(),), (new_token(), new_token())
    for error, tokens in ((ClaimUnanswered("away", new), new), (StoreUnavailable("away"), old)):
        wait = take(error, Carried(tokens=old))
        assert isinstance(wait, RetryLater)
        assert wait.tokens == tokens


# A callback.


def record(told: object, body: str, attempt: int = 1) -> Outcome:
    return steps.record_callback(Tracking(told), body, Carried(attempt))  # type: ignore[arg-type]  # it is a double


DELIVERY = json.dumps(event("Delivery", "email-1"))


@pytest.mark.parametrize("row", ["Delivered", "already Complained", "still Sent"])
def test_a_callback_that_is_recorded_is_done_and_says_what_the_row_is_then(row: str) -> None:
    assert record(row, DELIVERY) == Done(detail=f"delivered: {row}")


def test_that_a_provider_tries_its_topic_is_done() -> None:
    outcome = record(None, "Successfully validated SNS topic for Amazon SES event publishing.")
    assert outcome == Done(detail="a provider tested its topic")


@pytest.mark.parametrize(
    ("body", "code"), [("no JSON", "NotJson"), ("{}", "UnknownCallback"), (DELIVERY, "EmailNotFound")]
)
def test_a_callback_that_no_row_explains_is_a_dead_letter(body: str, code: str) -> None:
    letter = record(None, body)
    assert isinstance(letter, DeadLetter)
    assert letter.reason.code == code


def test_a_callback_waits_for_dynamodb_too() -> None:
    waits = [record(StoreUnavailable("away"), DELIVERY, attempt=1000) for _ in range(100)]
    assert all(isinstance(wait, RetryLater) and wait.affects_all for wait in waits)
    assert 450 < max(wait.seconds for wait in waits if isinstance(wait, RetryLater)) <= 900


def test_a_webhook_about_several_emails_is_recorded_although_one_has_no_row() -> None:
    event = next(example for example in EXAMPLES if example.provider == "sendgrid").report[0]
    others = [{**event, "email_id": encoded_id(f"order-{number}")} for number in (2, 3)]
    report = json.dumps([event, {"event": "open"}, *others])
    body = {"provider": "sendgrid", "received": "2026-01-01T00:00:00Z", "headers": {}, "body": report}
    recorded = []

    class Recorded:
        def record(self, events: list[Any]) -> str | None:
            recorded.append(events[0].email_id)
            return None if events[0].email_id == "order-2" else "Delivered"

    outcome = steps.record_callback(Recorded(), json.dumps(body), Carried())  # type: ignore[arg-type]  # a double
    assert recorded == ["order-1", "order-2", "order-3"]
    assert isinstance(outcome, DeadLetter)
    assert outcome.reason.code == "EmailNotFound"
