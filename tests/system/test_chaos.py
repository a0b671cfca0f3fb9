"""The chaos run and its judge.

The judge must accept what is explained, and find what breaks a promise. If claims do not work, it must also find the
emails that are sent twice or left Unknown.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from emails.dead_letters import ReceivedDeadLetter
from emails.decide import ABANDONED
from tests.support.chaos import report
from tests.support.chaos_judge import (
    ACCEPTED_IS_SENT,
    DEAD_LETTER_IS_EXPLAINED,
    ENDED,
    FAILED_IS_REFUSED,
    LISTED,
    NEVER_STALLED,
    NOTHING_LEFT,
    ONCE,
    SENT_IS_ACCEPTED,
    STOPPED,
    UNKNOWN_IS_EXPLAINED,
    UNUSABLE_IS_DEAD_LETTER,
    Holds,
    Story,
    judge,
)
from tests.support.chaos_run import Chaos
from tests.support.provider_double import ACCEPTED, FAILED, LOST, REFUSED

if TYPE_CHECKING:
    from pathlib import Path

SEED = int(os.environ.get("SEED") or random.randrange(10**6))
EMAILS = 300
FAIL_OVER_EMAILS = 60


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)  # the machine may be busy, and the run has its own limits
@pytest.mark.parametrize(
    ("grouped", "fail_over"), [("on", False), ("off", False), ("on", True)], ids=["grouped", "ungrouped", "fail-over"]
)
def test_every_email_is_accounted_for_and_none_is_sent_twice_whatever_breaks(
    emulator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], grouped: str, fail_over: bool
) -> None:
    chaos = Chaos(emulator, tmp_path, SEED, fail_over=fail_over)
    emails = FAIL_OVER_EMAILS if fail_over else EMAILS
    story = chaos.run(emails, EMAIL_GROUPED_REQUESTS=grouped)
    verdict = judge(story)
    with capsys.disabled():
        Console().print(report(chaos, verdict, SEED, emails))
    assert not any(verdict.values()), f"SEED={SEED} EMAILS={emails}"
    if fail_over:
        assert {"smtp", "stub"} <= {row.get("Provider") for row in story.rows.values()}, "both providers sent emails"


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_emails_are_sent_twice_where_every_claim_succeeds(emulator: str, tmp_path: Path) -> None:
    chaos = Chaos(emulator, tmp_path, seed=1, duplicates=0.5)
    assert judge(chaos.run(40, CHAOS_NO_LEASE="1"))[ONCE]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_emails_are_unknown_without_a_reason_where_no_claim_is_taken_over(emulator: str, tmp_path: Path) -> None:
    chaos = Chaos(emulator, tmp_path, seed=1, unanswered_claim=0.5)
    assert judge(chaos.run(40, CHAOS_NO_TOKENS="1"))[UNKNOWN_IS_EXPLAINED]


def story(**row: Any) -> Story:
    """Return the story of one email, which was accepted and is Sent unless `row` says otherwise."""
    return Story(
        rows={"e": {"EmailId": "e", "EmailStatus": "Sent"} | row},
        listed={"e"} if row.get("EmailStatus") in {"Failed", "Unknown"} else set(),
        provider={"e": Counter({ACCEPTED: 1})},
        exit_codes={1: 0, 2: 0},
    )


def letter(reason: str, body: str = '"e"') -> ReceivedDeadLetter:
    message = {"MessageId": "1", "Body": body, "MessageAttributes": {"Reason": {"StringValue": reason}}}
    return ReceivedDeadLetter("tasks_dlq", message)


ABANDONED_EMAIL = story(EmailStatus="Unknown", FailureReason=ABANDONED)
UNANSWERED = story(EmailStatus="Unknown", FailureReason="no answer")
FAILED_EMAIL = replace(story(EmailStatus="Failed"), provider={"e": Counter()})
CRASHED = Holds.read("7 holds e")
FINISHED = Holds.read("7 holds e\n7 leaves e 0.1 Finished")
OUTLASTED = Holds.read("7 holds e\n7 leaves e 3.1 Finished")
RECORD_UNANSWERED = Holds.read("7 holds e\n7 reaches e\n7 leaves e 0.1 StoreUnavailable")
NOT_REACHED = Holds.read("7 holds e\n7 leaves e 0.1 StoreUnavailable")
CLAIM_UNANSWERED = Holds.read("7 holds e\n7 unanswered-claim e claim-1\n7 leaves e 3.1 ClaimUnanswered")
UNANSWERED_EMAIL = story(EmailStatus="Unknown", FailureReason=ABANDONED, ClaimedBy="claim-1")


@pytest.mark.parametrize(
    "innocent",
    [
        pytest.param(story(), id="sent"),
        pytest.param(replace(story(), provider={"e": Counter({ACCEPTED: 2})}, resent=Counter("e")), id="resent"),
        pytest.param(replace(story(), provider={"e": Counter()}, marked_sent={"e"}), id="marked sent"),
        pytest.param(replace(FAILED_EMAIL, provider={"e": Counter({REFUSED: 1})}), id="refused"),
        pytest.param(replace(FAILED_EMAIL, rows=story(EmailStatus="Failed", Attempts=5).rows), id="tried to the last"),
        pytest.param(replace(ABANDONED_EMAIL, holds=CRASHED, killed={7}), id="killed"),
        pytest.param(
            replace(ABANDONED_EMAIL, holds=RECORD_UNANSWERED, store_faults=Counter("e")), id="DynamoDB unavailable"
        ),
        pytest.param(replace(ABANDONED_EMAIL, holds=OUTLASTED), id="longer than a lease"),
        pytest.param(
            replace(UNANSWERED_EMAIL, holds=CLAIM_UNANSWERED, killed={7}), id="killed before its copy was confirmed"
        ),
        pytest.param(replace(UNANSWERED, provider={"e": Counter({LOST: 1})}), id="dot lost"),
        pytest.param(replace(UNANSWERED, provider={"e": Counter({ACCEPTED: 1, FAILED: 1})}), id="answer lost"),
        pytest.param(replace(UNANSWERED, holds=Holds.read("7 unanswered e")), id="not answered in time"),
        pytest.param(
            replace(story(), letters=[letter("NotJson", body="x")], unusable={"x": "NotJson"}),
            id="dead letter",
        ),
        pytest.param(replace(story(), exit_codes={1: -15}), id="stopped at its start"),
    ],
)
def test_the_judge_accepts_what_is_explained(innocent: Story) -> None:
    assert [violation for violations in judge(innocent).values() for violation in violations] == []


@pytest.mark.parametrize(
    ("guilty", "promise"),
    [
        pytest.param(replace(story(EmailStatus="Pending"), provider={}), ENDED, id="lost"),
        pytest.param(replace(story(EmailStatus="Sending"), provider={}), ENDED, id="still held"),
        pytest.param(replace(story(), provider={"e": Counter({ACCEPTED: 2})}), ONCE, id="twice"),
        pytest.param(
            replace(story(), provider={"e": Counter({ACCEPTED: 3})}, resent=Counter("e")),
            ONCE,
            id="twice beside resend",
        ),
        pytest.param(story(EmailStatus="Failed", Attempts=5), ACCEPTED_IS_SENT, id="accepted and Failed"),
        pytest.param(replace(story(), provider={}), SENT_IS_ACCEPTED, id="Sent and not accepted"),
        pytest.param(FAILED_EMAIL, FAILED_IS_REFUSED, id="given up too early"),
        pytest.param(UNANSWERED, UNKNOWN_IS_EXPLAINED, id="every answer came"),
        pytest.param(replace(ABANDONED_EMAIL, provider={"e": Counter({LOST: 1})}), UNKNOWN_IS_EXPLAINED, id="no crash"),
        pytest.param(replace(ABANDONED_EMAIL, holds=CRASHED), UNKNOWN_IS_EXPLAINED, id="stopped while it held"),
        pytest.param(
            replace(ABANDONED_EMAIL, holds=FINISHED, killed={7}), UNKNOWN_IS_EXPLAINED, id="killed afterwards"
        ),
        pytest.param(
            replace(ABANDONED_EMAIL, holds=RECORD_UNANSWERED), UNKNOWN_IS_EXPLAINED, id="DynamoDB was available"
        ),
        pytest.param(
            replace(ABANDONED_EMAIL, holds=NOT_REACHED, store_faults=Counter("e")),
            UNKNOWN_IS_EXPLAINED,
            id="DynamoDB unavailable before the provider was asked",
        ),
        pytest.param(
            replace(UNANSWERED_EMAIL, holds=CLAIM_UNANSWERED, store_faults=Counter("e")),
            UNKNOWN_IS_EXPLAINED,
            id="a claim without an answer",
        ),
        pytest.param(
            replace(story(), seen=UNANSWERED_EMAIL.rows, holds=CLAIM_UNANSWERED),
            UNKNOWN_IS_EXPLAINED,
            id="a claim without an answer, before the operator said that the email was sent",
        ),
        pytest.param(replace(story(), left={"tasks": (0, 0, 1)}), NOTHING_LEFT, id="a delayed message"),
        pytest.param(replace(story(), letters=[letter("ValueError")]), DEAD_LETTER_IS_EXPLAINED, id="a task raised"),
        pytest.param(
            replace(story(), letters=[letter("MaxReceives")]), DEAD_LETTER_IS_EXPLAINED, id="nobody was killed"
        ),
        pytest.param(replace(UNANSWERED, provider={"e": Counter({LOST: 1})}, listed=set()), LISTED, id="not listed"),
        pytest.param(replace(story(), listed={"e"}), LISTED, id="listed though it was sent"),
        pytest.param(replace(story(), unusable={"x": "NotJson"}), UNUSABLE_IS_DEAD_LETTER, id="dropped in silence"),
        pytest.param(replace(story(), exit_codes={1: None}), STOPPED, id="does not stop"),
        pytest.param(replace(story(), stalls=["its loop stands still"]), NEVER_STALLED, id="stalled"),
        pytest.param(replace(story(), exit_codes={7: -15}, holds=FINISHED), STOPPED, id="ended by the signal at work"),
    ],
)
def test_the_judge_finds_what_breaks_a_promise(guilty: Story, promise: str) -> None:
    assert [name for name, violations in judge(guilty).items() if violations] == [promise]
