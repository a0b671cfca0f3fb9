"""What must be done for a row, for each case of the failure table that needs no provider, store or clock."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from emails.decide import ABANDONED, LEASE_GRACE_SECONDS, End, Send, decide, decide_by_content
from emails.outcome import Done, RetryLater
from emails.status import ABANDON, DISCARD, EmailStatus
from settings import Settings

NOW = 1_800_000_000.0

Row = dict[str, Any]


@pytest.fixture
def settings() -> Settings:
    return Settings(send_via="other", attachment_prefixes="s3://files/mail/")


def iso(seconds_from_now: float) -> str:
    return datetime.fromtimestamp(NOW + seconds_from_now, UTC).isoformat()


def file(uri: str) -> Row:
    return {"Attachments": [{"name": "a.pdf", "content_type": "application/pdf", "s3_uri": uri}]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"NextAttemptAt": Decimal(int(NOW)), "SendAfter": iso(0), "ExpiresAt": iso(0.1)},
        {"NextAttemptAt": None, "SendAfter": "", "ExpiresAt": None},
        {"SendVia": "other"},
        {"SendVia": "stub"},
        file("s3://files/mail/a.pdf"),
    ],
    ids=repr,
)
def test_a_pending_email_may_be_sent_unless_something_stands_against_it(
    settings: Settings, row: Row, changes: Row
) -> None:
    decision = decide(row | changes, NOW, settings)
    assert isinstance(decision, Send)
    assert decision.email.id == row["EmailId"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Subject": None}, "Subject: is missing"),
        ({"EmailStatus": None}, "EmailStatus: is missing"),
        ({"EmailStatus": ""}, "EmailStatus: is missing"),
        ({"Attempts": Decimal("1E+38")}, "Attempts: should be less than 1000000000"),
    ],
    ids=repr,
)
def test_a_row_that_cannot_be_mapped_fails_with_the_attribute_named(
    settings: Settings, row: Row, changes: Row, reason: str
) -> None:
    done = Done(EmailStatus.FAILED, "invalid row")
    assert decide(row | changes, NOW, settings) == End(DISCARD, reason, done)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ExpiresAt": iso(0), "SendAfter": iso(300)}, "expired"),
        ({"SendVia": "secret"}, "SendVia: is not one of the providers stub, other"),
        (file("s3://files/mailing/a"), "Attachments[0].s3_uri: does not begin with any of EMAIL_ATTACHMENT_PREFIXES"),
    ],
    ids=["expired", "no such provider", "a file from elsewhere"],
)
def test_an_email_that_must_never_be_sent_fails_with_the_reason(
    settings: Settings, row: Row, changes: Row, reason: str
) -> None:
    decision = End(DISCARD, reason, Done(EmailStatus.FAILED, reason))
    assert decide(row | changes, NOW, settings) == decision
    assert decide_by_content(row | changes | {"EmailStatus": "Sending"}, NOW, settings) == decision


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({"NextAttemptAt": Decimal(int(NOW) + 300)}, 300),
        ({"SendAfter": iso(300)}, 300),
        ({"SendAfter": iso(0.5)}, 0.5),
        ({"SendAfter": iso(300), "NextAttemptAt": Decimal(int(NOW) + 4000)}, 4000),
    ],
    ids=["NextAttemptAt", "SendAfter", "half a second", "both"],
)
def test_an_email_before_its_time_waits_for_it(settings: Settings, row: Row, changes: Row, seconds: float) -> None:
    assert decide(row | changes, NOW, settings) == RetryLater(seconds, "it is not due yet")
    assert decide_by_content(row | changes, NOW, settings) == RetryLater(seconds, "it is not due yet")


@pytest.mark.parametrize("left", [300, -LEASE_GRACE_SECONDS / 2], ids=["alive", "just over"])
def test_an_email_whose_lease_is_alive_waits_for_its_end(settings: Settings, row: Row, left: float) -> None:
    row |= {"EmailStatus": "Sending", "ClaimExpiresAt": Decimal(NOW + left)}
    decision = RetryLater(left + LEASE_GRACE_SECONDS, "another worker has claimed it")
    assert decide(row, NOW, settings) == decision, "clocks differ"


@pytest.mark.parametrize(
    "expires_at", [Decimal(NOW - LEASE_GRACE_SECONDS), None, "tomorrow"], ids=["over", "missing", "no number"]
)
def test_an_email_whose_lease_is_over_is_unknown(settings: Settings, row: Row, expires_at: object) -> None:
    row |= {"EmailStatus": "Sending", "ClaimExpiresAt": expires_at}
    done = Done(EmailStatus.UNKNOWN, "the claim expired")
    assert decide(row, NOW, settings) == End(ABANDON, ABANDONED, done)


@pytest.mark.parametrize("status", [*sorted(set(EmailStatus) - {"Pending", "Sending"}), "Waiting", "sent"])
def test_nothing_is_to_be_done_about_an_email_of_any_other_status(settings: Settings, row: Row, status: str) -> None:
    # Nothing else in the row matters, even if it is invalid or expired.
    row |= {"EmailStatus": str(status), "ExpiresAt": iso(-60), "Sender": 5}
    assert decide(row, NOW, settings) == Done(detail=f"already {status}")
