"""SES's notifications in both forms, and the events they become. Unreadable ones are refused with a reason."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emails.callbacks import parse_callback
from emails.callbacks.ses import MAX_RECIPIENTS
from emails.events import DeliveryEvent, EventType, RejectReason
from emails.message import InvalidMessage
from emails.status import EmailStatus
from tests.emails.callbacks.notifications import (
    DETAILS,
    HAPPENED_AT,
    MESSAGE_ID,
    RECIPIENT,
    SENT_AT,
    Json,
    by_sns,
    event,
    feedback,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "order-1044 \N{GRINNING FACE}"

KINDS = {
    "Bounce": (EventType.BOUNCED, EmailStatus.BOUNCED),
    "Complaint": (EventType.COMPLAINED, EmailStatus.COMPLAINED),
    "Delivery": (EventType.DELIVERED, EmailStatus.DELIVERED),
    "DeliveryDelay": (EventType.DEFERRED, EmailStatus.SENT),
    "Send": (EventType.SENT, EmailStatus.SENT),
    "Reject": (EventType.REJECTED, EmailStatus.BOUNCED),
    "Rendering Failure": (EventType.FAILED, EmailStatus.BOUNCED),
    "Open": (EventType.OPENED, EmailStatus.SENT),
    "Click": (EventType.CLICKED, EmailStatus.SENT),
    "Subscription": (EventType.UNSUBSCRIBED, EmailStatus.SENT),
}


def parsed(notification: Json) -> DeliveryEvent:
    (only,) = parse_callback(json.dumps(notification))
    return only


def test_every_kind_of_ses_is_there() -> None:
    assert set(KINDS) == set(DETAILS)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_of_the_email_and_of_its_recipient(kind: str) -> None:
    found = parsed(event(kind, ID))
    assert (found.type, found.status) == KINDS[kind]
    assert (found.email_id, found.recipient) == (ID, RECIPIENT)
    assert (found.provider, found.provider_message_id) == ("ses", MESSAGE_ID)
    moment = SENT_AT if kind in ("Send", "Reject", "Rendering Failure") else HAPPENED_AT
    assert found.occurred_at == datetime.fromisoformat(moment)


@pytest.mark.parametrize("kind", ["Bounce", "Complaint", "Delivery"])
def test_an_identity_s_feedback_says_the_same_by_the_email_s_own_header(kind: str) -> None:
    assert parsed(feedback(kind, ID)) == parsed(event(kind, ID))


@pytest.mark.parametrize("kind", KINDS)
def test_an_envelope_of_sns_or_of_eventbridge_changes_nothing(kind: str) -> None:
    notification = event(kind, ID)
    bare = parse_callback(json.dumps(notification))
    assert parse_callback(by_sns(notification)) == bare
    bridged = {"version": "0", "detail-type": "Email Event", "source": "aws.ses", "detail": notification}
    assert parse_callback(json.dumps(bridged)) == bare


@pytest.mark.parametrize(
    ("kind", "sub_type", "reason", "permanent"),
    [
        ("Permanent", "General", RejectReason.BOUNCED, True),
        ("Permanent", "NoEmail", RejectReason.BOUNCED, True),
        ("Permanent", "Suppressed", RejectReason.BLOCKED, True),
        ("Permanent", "OnAccountSuppressionList", RejectReason.BLOCKED, True),
        ("Permanent", "UnsubscribedRecipient", RejectReason.UNSUBSCRIBED, True),
        ("Permanent", "New in 2027", RejectReason.BOUNCED, True),
        ("Transient", "MailboxFull", RejectReason.TIMED_OUT, False),
        ("Transient", "ContentRejected", RejectReason.SPAM, False),
        ("Transient", "MessageTooLarge", RejectReason.OTHER, False),
        ("Transient", "AttachmentRejected", RejectReason.OTHER, False),
        ("Transient", "CustomTimeoutExceeded", RejectReason.TIMED_OUT, False),
        ("Transient", "New in 2027", RejectReason.TIMED_OUT, False),
        ("Transient", "", RejectReason.TIMED_OUT, False),
        ("Undetermined", "General", RejectReason.OTHER, False),
        ("Undetermined", "Undetermined", RejectReason.OTHER, False),
        ("New in 2027", "", RejectReason.OTHER, False),
    ],
)
def test_only_a_permanent_bounce_makes_the_row_bounced(
    kind: str, sub_type: str, reason: RejectReason, *, permanent: bool
) -> None:
    bounce = parsed(event("Bounce", ID, bounceType=kind, bounceSubType=sub_type))
    assert (bounce.type, bounce.reject_reason, bounce.permanent) == (EventType.BOUNCED, reason, permanent)
    assert bounce.status == (EmailStatus.BOUNCED if permanent else EmailStatus.SENT)
    assert bounce.description == f"{kind} {sub_type} 5.1.1".replace("  ", " ")
    assert bounce.diagnostic.endswith("User unknown")


@pytest.mark.parametrize(
    ("recipient", "permanent"),
    [
        ({"status": "5.4.4", "diagnosticCode": "smtp; 550 5.4.4 Invalid domain"}, True),
        ({"status": "5.1.1"}, True),
        ({"status": " 5.0.0 (permanent failure)"}, True),
        ({"status": "5.4.4", "diagnosticCode": "smtp; 421 4.4.0 Unable to lookup DNS"}, True),
        ({"status": "5.1.1", "action": "failed"}, True),
        ({"status": "5.1.1", "action": "Failed"}, True),
        ({"status": "5.1.1", "action": "delayed"}, False),
        ({"status": "5.1.1", "action": "delivered"}, False),
        ({"status": "5.1.1", "action": "relayed"}, False),
        ({"status": "5.1.1", "action": "expanded"}, False),
        ({"status": "4.4.7", "action": "failed"}, False),
        ({"status": "4.4.7", "diagnosticCode": "smtp; 554 5.4.7 Message expired"}, False),
        ({"status": "2.0.0"}, False),
        ({"diagnosticCode": "smtp; 550 5.4.4 Invalid domain"}, True),
        ({"status": None, "diagnosticCode": "smtp; 550 5.4.4 Invalid domain", "action": None}, True),
        ({"status": "", "diagnosticCode": "550-5.1.1 no such user\r\n550 5.1.1 at all"}, True),
        ({"status": "unknown", "diagnosticCode": "smtp; 550 #5.1.0 Address rejected."}, True),
        ({"diagnosticCode": "smtp; 5.4.7 - Delivery expired"}, True),
        ({"diagnosticCode": "5.1.1"}, True),
        ({"diagnosticCode": "x-postfix; host mx[192.0.2.1] said: 550 5.1.1. User unknown"}, True),
        ({"diagnosticCode": "smtp; 450 4.2.0 Greylisted by mailer 5.0.1"}, False),
        ({"diagnosticCode": "smtp; 421 by 5.6.7.8"}, False),
        ({"diagnosticCode": "smtp; 550 5.6.7.8 is on a list"}, False),
        ({"diagnosticCode": "smtp; 550 5.1.1000"}, False),
        ({"diagnosticCode": "smtp; 550 User unknown"}, False),
        ({"diagnosticCode": "Mailer 5.0.1: 3550 5.1.1 messages"}, False),
        ({}, False),
    ],
)
def test_the_status_code_decides_of_a_bounce_that_ses_calls_transient_and_general(
    recipient: Json, *, permanent: bool
) -> None:
    recipients = [{"emailAddress": RECIPIENT, **recipient}]
    changes: Json = {"bounceType": "Transient", "bounceSubType": "General", "bouncedRecipients": recipients}
    for bounce in (parsed(event("Bounce", ID, **changes)), parsed(feedback("Bounce", ID, **changes))):
        reason = RejectReason.BOUNCED if permanent else RejectReason.TIMED_OUT
        assert (bounce.type, bounce.reject_reason, bounce.permanent) == (EventType.BOUNCED, reason, permanent)
        assert bounce.status == (EmailStatus.BOUNCED if permanent else EmailStatus.SENT)


def test_a_status_code_that_only_the_diagnostic_has_is_in_the_description() -> None:
    recipients = [{"emailAddress": RECIPIENT, "diagnosticCode": "smtp; 550 5.4.4 Invalid domain"}]
    assert parsed(event("Bounce", ID, bouncedRecipients=recipients)).description == "Permanent General 5.4.4"


def test_the_recipients_of_one_bounce_are_judged_one_by_one() -> None:
    statuses = {"ada@example.com": "4.4.7", "bob@example.com": "5.4.4", "eve@example.com": None}
    recipients = [{"emailAddress": address, "status": status} for address, status in statuses.items()]
    bounce = event("Bounce", ID, bounceType="Transient", bounceSubType="General", bouncedRecipients=recipients)
    assert [(each.recipient, each.permanent, each.reject_reason) for each in parse_callback(json.dumps(bounce))] == [
        ("ada@example.com", False, RejectReason.TIMED_OUT),
        ("bob@example.com", True, RejectReason.BOUNCED),
        ("eve@example.com", False, RejectReason.TIMED_OUT),
    ]


@pytest.mark.parametrize("text", [" ", "a", "5", "5.1.1.", "550 ", "550-", "smtp;", "smtp; "])
def test_a_status_code_is_looked_for_at_once_in_a_diagnostic_as_large_as_sqs_takes(text: str) -> None:
    recipients = [
        {"emailAddress": RECIPIENT, "status": text * 100_000, "diagnosticCode": text * (900_000 // len(text))}
    ]
    bounce = event("Bounce", ID, bounceType="Transient", bounceSubType="General", bouncedRecipients=recipients)
    started = time.process_time()
    assert parsed(bounce).permanent is False
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"complaintFeedbackType": "abuse"}, EventType.COMPLAINED, RejectReason.SPAM),
        ({"complaintFeedbackType": None}, EventType.COMPLAINED, RejectReason.SPAM),
        ({"complaintFeedbackType": "not-spam"}, EventType.UNKNOWN, None),
        ({"complaintSubType": "OnAccountSuppressionList"}, EventType.REJECTED, RejectReason.SPAM),
    ],
)
def test_a_complaint_is_one_only_where_somebody_complains_of_this_email(
    changes: Json, kind: EventType, reason: RejectReason | None
) -> None:
    complaint = parsed(event("Complaint", ID, **changes))
    assert (complaint.type, complaint.reject_reason) == (kind, reason)


@pytest.mark.parametrize(
    ("kind", "changes", "reason", "description", "diagnostic"),
    [
        (
            "Bounce",
            {},
            RejectReason.BOUNCED,
            "Permanent General 5.1.1",
            "smtp; 550 5.1.1 <ada@example.com>... User unknown",
        ),
        ("Complaint", {}, RejectReason.SPAM, "Complaint abuse", ""),
        (
            "Complaint",
            {"complaintSubType": "OnAccountSuppressionList"},
            RejectReason.SPAM,
            "Complaint OnAccountSuppressionList abuse",
            "",
        ),
        ("Delivery", {}, None, "", "250 ok:  Message 64111812 accepted"),
        ("DeliveryDelay", {}, None, "MailboxFull 4.2.2", "smtp; 452 4.2.2 mailbox full"),
        ("Send", {}, None, "", ""),
        ("Reject", {}, RejectReason.BLOCKED, "Reject Bad content", ""),
        ("Rendering Failure", {}, RejectReason.OTHER, "Rendering Failure", "Attribute 'name' is not present"),
        ("Subscription", {}, None, "Subscription", ""),
    ],
)
def test_an_event_says_why_in_ses_s_words(
    kind: str, changes: Json, reason: RejectReason | None, description: str, diagnostic: str
) -> None:
    found = parsed(event(kind, ID, **changes))
    assert (found.reject_reason, found.description, found.diagnostic) == (reason, description, diagnostic)


@pytest.mark.usefixtures("_far_from_utc")
@pytest.mark.parametrize("moment", ["2026-01-31T12:00:05", "2026-01-31T12:00:05Z", "2026-01-31T13:00:05+01:00"])
def test_a_time_without_an_offset_is_in_utc_wherever_the_worker_is(moment: str) -> None:
    occurred_at = parsed(event("Bounce", ID, timestamp=moment)).occurred_at
    assert occurred_at.isoformat() == "2026-01-31T12:00:05+00:00"


def test_as_many_recipients_as_are_allowed_have_an_event_each() -> None:
    notification = event("Send", ID, *(f"{number}@example.com" for number in range(MAX_RECIPIENTS)))
    assert len(parse_callback(json.dumps(notification))) == MAX_RECIPIENTS


def test_a_kind_that_is_new_to_us_is_quoted_only_in_part() -> None:
    assert parsed(event("Send", ID) | {"eventType": "X<" * 50}).description == "X" * 20


@pytest.mark.parametrize("added", [{"TopicArn": "arn", "Message": "{}"}, {"detail-type": "Email", "detail": {}}])
def test_a_notification_that_has_the_keys_of_an_envelope_too_is_still_a_notification(added: Json) -> None:
    assert parsed(event("Bounce", ID) | added) == parsed(event("Bounce", ID))


@pytest.mark.parametrize("kind", ["Complaint", "DeliveryDelay"])
def test_an_event_is_about_those_whom_it_names_and_not_about_all_recipients(kind: str) -> None:
    named = [{"emailAddress": f"{name}@example.com"} for name in ("bob", "eve")]
    notification = event(kind, ID, RECIPIENT, **{NAMES_ITS_RECIPIENTS[kind]: named})
    events = parse_callback(json.dumps(notification))
    assert [found.recipient for found in events] == ["bob@example.com", "eve@example.com"]


@pytest.mark.parametrize("kind", ["Send", "Reject", "Rendering Failure"])
def test_an_event_of_an_email_without_recipients_names_nobody(kind: str) -> None:
    notification = event(kind, ID)
    notification["mail"]["destination"] = []
    assert parsed(notification).recipient == ""


def test_each_recipient_has_an_event_of_its_own() -> None:
    recipients = [{"emailAddress": f"{name}@example.com", "status": "5.1.1"} for name in ("ada", "bob")]
    events = parse_callback(json.dumps(event("Bounce", ID, bouncedRecipients=recipients)))
    assert [bounce.recipient for bounce in events] == ["ada@example.com", "bob@example.com"]


NAMES_ITS_RECIPIENTS = {
    "Bounce": "bouncedRecipients",
    "Complaint": "complainedRecipients",
    "Delivery": "recipients",
    "DeliveryDelay": "delayedRecipients",
}


@pytest.mark.parametrize("kind", NAMES_ITS_RECIPIENTS)
@pytest.mark.parametrize("nobody", [[], None, [None]], ids=repr)
@pytest.mark.parametrize(
    ("destination", "recipient"), [((RECIPIENT,), RECIPIENT), ((RECIPIENT, "bob@example.com"), "")], ids=["one", "two"]
)
def test_an_event_that_names_nobody_moves_the_row_all_the_same(
    kind: str, nobody: object, destination: tuple[str, ...], recipient: str
) -> None:
    found = parsed(event(kind, ID, *destination, **{NAMES_ITS_RECIPIENTS[kind]: nobody}))
    assert ((found.type, found.status), found.recipient) == (KINDS[kind], recipient)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nobody", [[], None])
def test_an_email_whose_recipients_ses_leaves_out_is_moved_all_the_same(kind: str, nobody: object) -> None:
    notification = event(kind, ID)
    notification["mail"]["destination"] = nobody
    assert (parsed(notification).type, parsed(notification).status) == KINDS[kind]


def test_who_of_several_opened_it_is_not_guessed() -> None:
    assert parsed(event("Open", ID, "ada@example.com", "bob@example.com")).recipient == ""


def test_a_subscription_that_ends_nothing_is_no_unsubscription() -> None:
    preferences = {"unsubscribeAll": False, "topicSubscriptionStatus": [{"subscriptionStatus": "OptIn"}]}
    assert parsed(event("Subscription", ID, newTopicPreferences=preferences)).type == EventType.UNKNOWN
    assert parsed(event("Subscription", ID, newTopicPreferences={"unsubscribeAll": True})).status == EmailStatus.SENT


def test_a_kind_that_is_new_to_us_is_kept_and_moves_nothing() -> None:
    new = event("Send", ID) | {"eventType": "Teleport"}
    assert (parsed(new).type, parsed(new).status, parsed(new).description) == (EventType.UNKNOWN, None, "Teleport")


def test_fields_that_are_new_to_us_are_no_error() -> None:
    notification = event("Bounce", ID, newInside={"a": 1}) | {"newOutside": [1]}
    assert parsed(notification).type == EventType.BOUNCED


@pytest.mark.parametrize(
    "body",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        by_sns("Successfully validated SNS topic for Amazon SES event publishing."),
        by_sns({"notificationType": "AmazonSnsSubscriptionSucceeded", "message": "You have successfully subscribed"}),
    ],
)
def test_a_test_of_the_topic_is_no_event(body: str) -> None:
    assert parse_callback(body) == []


def test_a_subject_that_quotes_the_test_of_the_topic_hides_nothing() -> None:
    notification = event("Bounce", ID)
    subject = "Successfully validated SNS topic for Amazon SES event publishing."
    notification["mail"]["headers"] = [{"name": "Subject", "value": subject}]
    assert parsed(notification).type == EventType.BOUNCED


def without(notification: Json, *path: str) -> Json:
    inner = notification
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return notification


@pytest.mark.parametrize(
    ("callback", "reason", "detail"),
    [
        (feedback("Bounce", None), "NoEmailId", "include the original headers in the identity's feedback"),
        (without(event("Bounce", ID), "mail", "tags"), "NoEmailId", "neither the tag email_id nor the header"),
        (event("Bounce", ""), "InvalidEmailId", "blank"),
        (event("Bounce", "x" * 191), "InvalidEmailId", "longer than 190"),
        (without(event("Bounce", ID), "mail"), "InvalidCallback", "wrong or missing: mail"),
        (without(event("Bounce", ID), "bounce"), "InvalidCallback", "wrong or missing: bounce"),
        (without(event("Bounce", ID), "bounce", "timestamp"), "InvalidCallback", "wrong or missing: bounce.timestamp"),
        (event("Bounce", ID, timestamp="yesterday"), "InvalidCallback", "wrong or missing: bounce.timestamp"),
        (event("Bounce", ID, timestamp="0001-01-01T00:00:00+23:59"), "InvalidCallback", "bounce.timestamp"),
        (
            event("Bounce", ID, bouncedRecipients=[{}]),
            "InvalidCallback",
            "wrong or missing: bounce.bouncedRecipients.0.emailAddress",
        ),
        (event("Send", ID, *["ada@example.com"] * 101), "InvalidCallback", "more than 100 recipients"),
        (
            {"hello": "world"},
            "UnknownCallback",
            "it has neither eventType nor notificationType, and is not from a webhook",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(callback: Json, reason: str, detail: str) -> None:
    with pytest.raises(InvalidMessage) as raised:
        parse_callback(json.dumps(callback))
    assert raised.value.reason == reason
    assert detail in raised.value.detail
    assert RECIPIENT not in raised.value.detail


@pytest.mark.parametrize(
    ("callback", "field"),
    [
        (event("Send", ID, "\u200bada@example.com"), "mail.destination.0"),
        (event("Delivery", ID, recipients=["ada@exam\ufeffple.com"]), "delivery.recipients.0"),
        *(
            (
                event(kind, ID, **{name: [{"emailAddress": "Ada <a\u2060@b.example>"}]}),
                f"{part}.{name}.0.emailAddress",
            )
            for kind, part, name in (
                ("Bounce", "bounce", "bouncedRecipients"),
                ("Complaint", "complaint", "complainedRecipients"),
                ("DeliveryDelay", "deliveryDelay", "delayedRecipients"),
            )
        ),
    ],
)
def test_an_address_with_an_invisible_character_is_refused(callback: Json, field: str) -> None:
    with pytest.raises(InvalidMessage) as raised:
        parse_callback(json.dumps(callback))
    assert (raised.value.reason, raised.value.detail) == ("InvalidCallback", f"wrong or missing: {field}")


def test_a_display_name_may_have_an_invisible_character() -> None:
    recipient = "\U0001f469\u200d\U0001f52c <ada@example.com>"
    assert parsed(event("Send", ID, recipient)).recipient == recipient


@pytest.mark.parametrize("value", ["%%%", "/w", "\u00e9"])
def test_an_id_that_is_not_base64url_of_utf_8_is_refused(value: str) -> None:
    notification = event("Bounce", ID)
    notification["mail"]["tags"]["email_id"] = [value]
    with pytest.raises(InvalidMessage, match="InvalidEmailId"):
        parse_callback(json.dumps(notification))


# Without these fields, a notification is useless.
REQUIRED = {"messageId", "timestamp", "bounceType", "emailAddress", "eventType", "notificationType", "mail"}
EXAMPLES = [
    *(event(kind, ID, *destination) for kind in KINDS for destination in ((), (RECIPIENT, "bob@example.com"))),
    *(feedback(kind, ID) for kind in ("Bounce", "Complaint", "Delivery")),
]


def fields(value: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of a JSON value's fields, including those within arrays."""
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(name, str):
            yield (*path, name)
        if isinstance(inner, (dict, list)):
            yield from fields(inner, *path, name)


def optional_fields(notification: Json) -> list[tuple[str | int, ...]]:
    # A part with its own timestamp is required. So is the id, which is in only one place.
    needed = {name for name, part in notification.items() if isinstance(part, dict) and "timestamp" in part}
    return [path for path in fields(notification) if path[-1] not in REQUIRED | needed and not is_the_id(path)]


def is_the_id(path: tuple[str | int, ...]) -> bool:
    return path[:2] in {("mail", "tags"), ("mail", "headers")} and path[-1] in {
        "tags",
        "email_id",
        "headers",
        "value",
        "name",
    }


def changed(notification: Json, paths: list[tuple[str | int, ...]], *, null: bool) -> str:
    """Return the notification without these fields, or with null in them."""
    notification = json.loads(json.dumps(notification))
    for path in sorted(paths, key=len, reverse=True):
        inner: Any = notification
        for name in path[:-1]:
            inner = inner[name]
        if null:
            inner[path[-1]] = None
        else:
            del inner[path[-1]]
    return json.dumps(notification)


@given(st.data())
def test_null_means_missing_in_every_field(data: st.DataObject) -> None:
    notification = data.draw(st.sampled_from(EXAMPLES))
    paths = data.draw(st.lists(st.sampled_from(optional_fields(notification)), unique=True))
    nulls, missing = (changed(notification, paths, null=null) for null in (True, False))
    events = parse_callback(nulls)
    assert events == parse_callback(missing)
    assert events == parse_callback(by_sns(json.loads(nulls)))
    assert {found.type for found in events} <= {
        EventType.UNKNOWN,
        *(found.type for found in parse_callback(json.dumps(notification))),
    }


@given(st.data())
def test_null_in_a_field_that_is_needed_is_refused_as_if_it_were_missing(data: st.DataObject) -> None:
    notification = data.draw(st.sampled_from(EXAMPLES))
    paths = data.draw(st.lists(st.sampled_from(list(fields(notification))), unique=True))
    outcomes = []
    for null in (True, False):
        try:
            outcomes.append(repr(parse_callback(changed(notification, paths, null=null))))
        except InvalidMessage as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from([RECIPIENT, HAPPENED_AT, ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """Draw a notification in which some parts are replaced by anything."""
    notification = draw(st.sampled_from([*(event(kind, ID) for kind in KINDS), feedback("Bounce", ID)]))
    notification = json.loads(json.dumps(notification))
    for _ in range(draw(st.integers(0, 3))):
        inner = notification
        while isinstance(inner, dict) and inner:
            name = draw(st.sampled_from(sorted(inner)))
            if draw(st.booleans()) or not isinstance(inner[name], (dict, list)):
                inner[name] = draw(json_values)
                break
            inner = inner[name][0] if isinstance(inner[name], list) and inner[name] else inner[name]
    return notification


@given(damaged() | json_values)
def test_whatever_comes_is_events_of_one_email_or_refused(callback: Any) -> None:
    with suppress(InvalidMessage):
        events = parse_callback(json.dumps(callback))
        assert len({found.email_id for found in events}) <= 1
        assert len(events) <= 100
        assert all(found.occurred_at.astimezone(UTC) for found in events)


@given(st.text(max_size=60) | st.text(max_size=60).map(by_sns))
def test_any_text_is_refused_or_a_test(body: str) -> None:
    with suppress(InvalidMessage):
        assert parse_callback(body) == []
