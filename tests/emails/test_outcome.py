from __future__ import annotations

import logging
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from celery_sqs.sqs.dead_letters import Reason
from emails.outcome import DeadLetter, Done, Outcome, RetryLater
from emails.status import EmailStatus


@pytest.mark.usefixtures("_far_from_utc")
@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Done(EmailStatus.SENT, provider="ses"), "Sent"),
        (Done(EmailStatus.SENT, "2 recipients rejected", "smtp"), "Sent: 2 recipients rejected"),
        (Done(EmailStatus.FAILED, "invalid row"), "Failed: invalid row"),
        (Done(detail="already Sent"), "already Sent"),
        (RetryLater(1, "it has no row yet"), "next try in 1.0 s: it has no row yet"),
        (RetryLater(900, "busy (attempt 2)"), "next try in 900.0 s: busy (attempt 2)"),
        (RetryLater(86_400, "it is not due yet"), "next try at 2026-02-01T12:00:00Z: it is not due yet"),
        (RetryLater(1e30, "it is not due yet"), f"next try in {1e30:.1f} s: it is not due yet"),
        (RetryLater(float("inf"), "it is not due yet"), "next try in inf s: it is not due yet"),
        (DeadLetter(Reason("NotJson", "the body is not JSON")), "dead letter: NotJson: the body is not JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_text_of_an_outcome_is_its_line_in_the_log(
    outcome: Outcome, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
    monkeypatch.setattr("emails.outcome.time", SimpleNamespace(time=lambda: now))
    assert str(outcome) == line


@pytest.mark.parametrize(("seconds", "delay"), [(-1, 0), (0, 0), (7.2, 7.2), (900, 900), (10**6, 900)])
def test_a_long_wait_takes_several_copies(seconds: float, delay: float) -> None:
    assert RetryLater(seconds, "busy").delay == delay


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (Done(EmailStatus.SENT), logging.INFO),
        (Done(EmailStatus.BOUNCED), logging.INFO),
        (Done(detail="already Failed"), logging.INFO),
        (Done(EmailStatus.FAILED, "expired"), logging.WARNING),
        (Done(EmailStatus.UNKNOWN, "the claim expired"), logging.ERROR),
        (RetryLater(1, "busy"), logging.INFO),
    ],
    ids=str,
)
def test_an_alert_by_level_finds_what_needs_a_person(outcome: Done | RetryLater, level: int) -> None:
    assert outcome.level == level
