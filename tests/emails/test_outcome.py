from __future__ import annotations

import pytest

from celery_sqs.sqs.dead_letters import Reason
from emails.outcome import DeadLetter, Done, Outcome, RetryLater
from emails.status import EmailStatus


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (Done(EmailStatus.SENT, provider="ses"), "Sent"),
        (Done(EmailStatus.SENT, "2 recipients refused", "smtp"), "Sent: 2 recipients refused"),
        (Done(EmailStatus.FAILED, "invalid row"), "Failed: invalid row"),
        (Done(detail="already Sent"), "already Sent"),
        (RetryLater(1, "it has no row yet"), "next try in 1.0 s: it has no row yet"),
        (RetryLater(4000, "busy (attempt 2)"), "next try in 4000.0 s: busy (attempt 2)"),
        (DeadLetter(Reason("NotJson", "the body is not JSON")), "dead letter: NotJson: the body is not JSON"),
    ],
    ids=str,
)
def test_the_text_of_an_outcome_is_its_line_in_the_log(outcome: Outcome, line: str) -> None:
    assert str(outcome) == line


@pytest.mark.parametrize(("seconds", "delay"), [(-1, 0), (0, 0), (7.2, 7.2), (900, 900), (10**6, 900)])
def test_a_long_wait_takes_several_copies(seconds: float, delay: float) -> None:
    assert RetryLater(seconds, "busy").delay == delay
