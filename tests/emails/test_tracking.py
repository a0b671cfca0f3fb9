"""Callbacks arrive in any order, twice, early, and in any status. The tests check the row and its history."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emails.events import DeliveryEvent, EventType, RejectReason
from emails.providers.contract import PermanentError, Receipt, RefusedRecipient
from emails.sender import Sender
from emails.status import RANKED, EmailStatus
from emails.steps import Carried, record_callback
from emails.store import EmailStore
from emails.store.events import MAX_TEXT
from emails.tracking import Tracking
from settings.aws import client
from tests.emails.callbacks.notifications import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from emails.email import Email
    from emails.store import Claim, EventStore
    from settings import Settings

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ADA, BOB = "ada@example.com", "bob@example.com"


@pytest.fixture
def tracking(store: EmailStore, events: EventStore) -> Tracking:
    return Tracking(store, events)


@pytest.fixture
def put(store: EmailStore, row: dict[str, Any]) -> Callable[..., str]:
    """Write the row with these attributes. Return its id."""

    def put(**attributes: Any) -> str:
        store.put(row | attributes)
        return str(row["EmailId"])

    return put


def happened(email_id: str, kind: EventType, recipient: str = ADA, seconds: float = 0, **rest: Any) -> DeliveryEvent:
    return DeliveryEvent(email_id, kind, recipient, NOW + timedelta(seconds=seconds), "ses", "ses-1", **rest)


def status(store: EmailStore, email_id: str) -> str:
    return str((store.get(email_id) or {})["EmailStatus"])


def test_a_bounce_that_is_transient_for_one_recipient_and_for_good_for_another_shows_the_worst(
    tracking: Tracking, store: EmailStore, events: EventStore, put: Callable[..., str]
) -> None:
    email_id = put(EmailStatus="Sent")
    recipients = [{"emailAddress": ADA, "status": "4.4.7"}, {"emailAddress": BOB, "status": "5.4.4"}]
    bounce = event("Bounce", email_id, bounceType="Transient", bounceSubType="General", bouncedRecipients=recipients)
    record_callback(tracking, json.dumps(bounce), Carried())
    row = store.get(email_id) or {}
    assert (row["EmailStatus"], row["FailureReason"]) == ("Bounced", "bounced: Transient General 5.4.4")
    assert {each["Recipient"]: each["Permanent"] for each in events.of(email_id)} == {ADA: False, BOB: True}


def test_a_complaint_that_names_nobody_makes_the_row_complained(
    tracking: Tracking, store: EmailStore, events: EventStore, put: Callable[..., str]
) -> None:
    email_id = put(EmailStatus="Delivered")
    record_callback(tracking, json.dumps(event("Complaint", email_id, ADA, BOB, complainedRecipients=[])), Carried())
    assert status(store, email_id) == "Complained"
    assert [(each["EventType"], each.get("Recipient")) for each in events.of(email_id)] == [("complained", None)]


MOVES = {
    EventType.SENT: "Sent",
    EventType.DEFERRED: "Sent",
    EventType.DELIVERED: "Delivered",
    EventType.BOUNCED: "Bounced",
    EventType.REJECTED: "Bounced",
    EventType.COMPLAINED: "Complained",
}


@pytest.mark.parametrize("before", ["Pending", "Sending", "Sent", "Failed", "Unknown"])
@pytest.mark.parametrize("kind", MOVES)
def test_a_callback_moves_a_row_from_any_status(
    tracking: Tracking, store: EmailStore, put: Callable[..., str], before: str, kind: EventType
) -> None:
    after = MOVES[kind]
    email_id = put(EmailStatus=before, FailureReason="of before", NextAttemptAt=2_000_000_000)
    outcome = tracking.record([happened(email_id, kind)])
    assert status(store, email_id) == after
    assert outcome == (f"already {after}" if before == after else after)


@pytest.mark.parametrize("kinds", list(permutations([EventType.DELIVERED, EventType.BOUNCED, EventType.COMPLAINED])))
def test_in_any_order_the_row_shows_the_worst(
    tracking: Tracking, store: EmailStore, put: Callable[..., str], kinds: tuple[EventType, ...]
) -> None:
    email_id, seen = put(EmailStatus="Sent"), []
    for kind in kinds:
        tracking.record([happened(email_id, kind)])
        seen.append(RANKED.index(EmailStatus(status(store, email_id))))
    assert status(store, email_id) == "Complained"
    assert seen == sorted(seen), "never downwards"


def test_of_several_recipients_the_row_shows_the_worst_and_the_history_each(
    tracking: Tracking, store: EmailStore, events: EventStore, put: Callable[..., str]
) -> None:
    email_id = put(EmailStatus="Sent", RecipientsTo=[ADA, BOB])
    bounce = happened(email_id, EventType.BOUNCED, BOB, reject_reason=RejectReason.BOUNCED, description="General 5.1.1")
    tracking.record([bounce])
    tracking.record([happened(email_id, EventType.DELIVERED, ADA)])
    row = store.get(email_id) or {}
    assert (row["EmailStatus"], row["FailureReason"]) == ("Bounced", "bounced: General 5.1.1")
    history = {item["Recipient"]: item for item in events.of(email_id)}
    assert {recipient: item["EventType"] for recipient, item in history.items()} == {ADA: "delivered", BOB: "bounced"}
    assert history[BOB]["RejectReason"] == "bounced"


def test_of_events_that_come_together_the_worst_shows(
    tracking: Tracking, store: EmailStore, put: Callable[..., str]
) -> None:
    email_id = put(EmailStatus="Sent")
    events = [happened(email_id, EventType.DELIVERED), happened(email_id, EventType.BOUNCED, BOB)]
    assert tracking.record(events) == status(store, email_id) == "Bounced"


def test_a_soft_bounce_is_in_the_history_and_leaves_the_row(
    tracking: Tracking, store: EmailStore, events: EventStore, put: Callable[..., str]
) -> None:
    email_id = put(EmailStatus="Delivered")
    tracking.record([happened(email_id, EventType.BOUNCED, permanent=False)])
    tracking.record([happened(email_id, EventType.BOUNCED, seconds=60)])
    assert status(store, email_id) == "Bounced"
    assert [item["Permanent"] for item in events.of(email_id)] == [False, True]


def test_twice_is_as_good_as_once_and_the_latest_of_a_kind_stays(
    tracking: Tracking, events: EventStore, put: Callable[..., str]
) -> None:
    email_id = put(EmailStatus="Sent")
    late = happened(email_id, EventType.DEFERRED, seconds=60, description="MailboxFull")
    for deferred in (happened(email_id, EventType.DEFERRED), late, late, happened(email_id, EventType.DEFERRED)):
        tracking.record([deferred])
    (item,) = events.of(email_id)
    assert (item["OccurredAt"], item["Description"]) == ("2026-01-31T12:01:00.000+00:00", "MailboxFull")


def test_a_status_of_the_producer_s_own_stays(tracking: Tracking, store: EmailStore, put: Callable[..., str]) -> None:
    email_id = put(EmailStatus="Archived")
    assert tracking.record([happened(email_id, EventType.BOUNCED)]) == "already Archived"
    assert status(store, email_id) == "Archived"


@pytest.mark.parametrize("kind", [EventType.DELIVERED, EventType.UNKNOWN])
def test_an_email_without_a_row_leaves_nothing(tracking: Tracking, events: EventStore, kind: EventType) -> None:
    assert tracking.record([happened("nobody-s", kind)]) is None
    assert events.of("nobody-s") == []


def test_what_says_nothing_about_sending_moves_nothing(
    tracking: Tracking, store: EmailStore, events: EventStore, put: Callable[..., str]
) -> None:
    email_id = put()
    assert tracking.record([happened(email_id, EventType.UNKNOWN, description="Teleport")]) == "still Pending"
    assert status(store, email_id) == "Pending"
    assert [item["Description"] for item in events.of(email_id)] == ["Teleport"]


class Provider:
    """A provider that calls the test's function while it has the email."""

    name, longest_send, max_message_bytes = "stub", 5.0, None

    def __init__(self, meanwhile: Callable[[], object], refused: tuple[RefusedRecipient, ...] = ()) -> None:
        self._meanwhile = meanwhile
        self._refused = refused

    def max_send_rate(self) -> float | None:
        return None

    def send(self, email: Email) -> Receipt:
        self._meanwhile()
        return Receipt(self.name, f"of {email.id}", "accepted", self._refused)


@pytest.mark.parametrize(
    "kinds",
    [[EventType.SENT], [EventType.DELIVERED], [EventType.DELIVERED, EventType.BOUNCED], [EventType.COMPLAINED]],
)
def test_a_callback_before_the_record_stays_and_the_record_adds_its_receipt(
    tracking: Tracking, store: EmailStore, settings: Settings, put: Callable[..., str], kinds: list[EventType]
) -> None:
    email_id = put()
    provider = Provider(lambda: [tracking.record([happened(email_id, kind)]) for kind in kinds])
    assert str(Sender(store, {"stub": provider}, settings).send(email_id)) == "Sent"
    row = store.get(email_id) or {}
    assert (row["EmailStatus"], row["ProviderMessageId"], row["Provider"]) == (
        MOVES[kinds[-1]],
        f"of {email_id}",
        "stub",
    )
    assert "SentAt" in row


def test_a_callback_ends_the_attempts(
    tracking: Tracking, store: EmailStore, settings: Settings, put: Callable[..., str]
) -> None:
    email_id = put()
    tracking.record([happened(email_id, EventType.DELIVERED)])
    sender = Sender(store, {"stub": Provider(lambda: pytest.fail("it was sent again"))}, settings)
    assert str(sender.send(email_id)) == str(sender.load(email_id)) == "already Delivered"


REFUSED = (RefusedRecipient(BOB, RejectReason.BOUNCED, "550 5.1.1 <bob@example.com> no such user"),)


def test_recipients_that_the_provider_refuses_are_in_the_history_and_show_in_the_row(
    store: EmailStore, events: EventStore, settings: Settings, put: Callable[..., str]
) -> None:
    email_id = put(RecipientsTo=[ADA, BOB])
    outcome = Sender(store, {"stub": Provider(lambda: None, REFUSED)}, settings).send(email_id)
    assert str(outcome) == "Sent: 1 recipient rejected during the send"
    row = store.get(email_id) or {}
    assert (row["EmailStatus"], row["ProviderMessageId"]) == ("Bounced", f"of {email_id}")
    assert row["FailureReason"] == "rejected: during the send"
    (item,) = events.of(email_id)
    assert (item["EventType"], item["Recipient"], item["RejectReason"]) == ("rejected", BOB, "bounced")
    assert item["Diagnostic"] == REFUSED[0].response


def test_a_row_that_is_deleted_after_the_send_makes_no_dead_letter_of_an_email_that_was_sent(
    store: EmailStore, events: EventStore, settings: Settings, put: Callable[..., str]
) -> None:
    dynamodb = client("dynamodb", settings)

    class Deleting(EmailStore):
        def record(self, claim: Claim, receipt: Receipt) -> None:
            super().record(claim, receipt)
            dynamodb.delete_item(TableName=self.table, Key={"EmailId": {"S": claim.email_id}})

    email_id = put(RecipientsTo=[ADA, BOB])
    sender = Sender(Deleting(dynamodb, store.table), {"stub": Provider(lambda: None, REFUSED)}, settings)
    assert str(sender.send(email_id)) == "Sent: 1 recipient rejected during the send"
    assert not events.of(email_id)


def test_where_every_recipient_is_refused_the_row_is_failed_and_the_history_has_each(
    store: EmailStore, events: EventStore, settings: Settings, put: Callable[..., str]
) -> None:
    def refuse() -> None:
        raise PermanentError("every recipient is refused", RejectReason.BOUNCED, REFUSED)

    email_id = put(RecipientsTo=[BOB])
    outcome = Sender(store, {"stub": Provider(refuse)}, settings).send(email_id)
    assert str(outcome) == "Failed: every recipient is refused"
    assert status(store, email_id) == "Failed"
    assert [item["EventType"] for item in events.of(email_id)] == ["rejected"]


def test_why_a_whole_email_is_refused_is_in_the_history_where_the_provider_says_it(
    store: EmailStore, events: EventStore, settings: Settings, put: Callable[..., str]
) -> None:
    def refuse() -> None:
        raise PermanentError("the account is suspended", RejectReason.BLOCKED)

    email_id = put()
    Sender(store, {"stub": Provider(refuse)}, settings).send(email_id)
    (item,) = events.of(email_id)
    assert (item["EventType"], item["RejectReason"], item.get("Recipient")) == ("rejected", "blocked", None)
    assert status(store, email_id) == "Failed"


@hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipient=st.text(max_size=400), text=st.text(max_size=1200), moment=st.datetimes(timezones=st.just(UTC)))
def test_any_text_can_be_kept(events: EventStore, recipient: str, text: str, moment: datetime) -> None:
    email_id = f"{hash((recipient, text, moment))}"
    kept = DeliveryEvent(email_id, EventType.BOUNCED, recipient, moment, "ses", text, None, True, text, text)  # noqa: FBT003
    events.add([kept])
    (item,) = events.of(email_id)
    assert len(item.get("Diagnostic", "")) <= MAX_TEXT
