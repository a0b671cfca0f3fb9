"""Reports as the services' documentation shows them, with ids and addresses replaced, and what they mean to us.

Each names the page that it follows. Fields that say nothing about an email are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from emails.encoded_id import ID_TAG, encoded_id
from emails.status import EmailStatus

EMAIL_ID = "order-1"
ENCODED = encoded_id(EMAIL_ID)
METADATA = {ID_TAG: ENCODED}
TO = "ada@example.com"
EPOCH = 1_700_000_000
AT = datetime.fromtimestamp(EPOCH, UTC)
ISO = "2023-11-14T22:13:20Z"


@dataclass(frozen=True)
class Example:
    provider: str
    name: str
    report: Any
    event: str
    status: EmailStatus | None
    reason: str | None = None
    permanent: bool = True
    word: str = ""
    response: str = ""
    recipient: str = TO

    def __str__(self) -> str:
        return f"{self.provider} {self.name}"


SENT, DELIVERED = EmailStatus.SENT, EmailStatus.DELIVERED
BOUNCED, COMPLAINED = EmailStatus.BOUNCED, EmailStatus.COMPLAINED

UNKNOWN_USER = "550 5.1.1 no such user"


# Postmark's documentation: the webhooks "Delivery", "Bounce", "Spam complaint", "Subscription change" and "Open"
def _postmark(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "RecordType": kind,
        "MessageID": "00000000-0000-0000-0000-000000000001",
        "MessageStream": "outbound",
        "ServerID": 23,
        "Tag": "welcome-email",
        "Metadata": METADATA,
        **fields,
    }


def _postmark_bounce(kind: str, record: str = "Bounce") -> dict[str, Any]:
    return _postmark(
        record, ID=42, Type=kind, TypeCode=1, Name=kind, Details=UNKNOWN_USER, Email=TO, BouncedAt=ISO, Inactive=True
    )


POSTMARK = [
    Example(
        "postmark",
        "delivery",
        _postmark("Delivery", Recipient=TO, DeliveredAt=ISO, Details="Test delivery webhook details"),
        "delivered",
        DELIVERED,
        response="Test delivery webhook details",
    ),
    Example(
        "postmark",
        "hard bounce",
        _postmark_bounce("HardBounce"),
        "bounced",
        BOUNCED,
        "bounced",
        word="HardBounce",
        response=UNKNOWN_USER,
    ),
    Example(
        "postmark",
        "soft bounce",
        _postmark_bounce("SoftBounce"),
        "bounced",
        SENT,
        "bounced",
        permanent=False,
        word="SoftBounce",
        response=UNKNOWN_USER,
    ),
    Example(
        "postmark",
        "complaint",
        _postmark_bounce("SpamComplaint", "SpamComplaint"),
        "complained",
        COMPLAINED,
        "spam",
        word="SpamComplaint",
        response=UNKNOWN_USER,
    ),
    Example(
        "postmark",
        "unsubscribe",
        _postmark(
            "SubscriptionChange",
            Recipient=TO,
            ChangedAt=ISO,
            Origin="Recipient",
            SuppressSending=True,
            SuppressionReason="ManualSuppression",
        ),
        "unsubscribed",
        SENT,
        "unsubscribed",
    ),
    Example("postmark", "open", _postmark("Open", Recipient=TO, ReceivedAt=ISO, FirstOpen=True), "opened", SENT),
]


# Resend's documentation: "Event types"
def _resend(kind: str, **data: Any) -> dict[str, Any]:
    return {
        "type": f"email.{kind}",
        "created_at": ISO,
        "data": {
            "email_id": "00000000-0000-0000-0000-000000000001",
            "created_at": ISO,
            "from": "Shop <shop@example.com>",
            "to": [TO],
            "subject": "Hello",
            "headers": [{"name": "X-Metadata", "value": f'{{"{ID_TAG}": "{ENCODED}"}}'}],
            **data,
        },
    }


def _resend_bounce(kind: str, sub_type: str) -> dict[str, Any]:
    text = "The recipient's email provider sent a hard bounce message."
    return _resend("bounced", bounce={"message": text, "type": kind, "subType": sub_type})


RESEND = [
    Example("resend", "delivered", _resend("delivered"), "delivered", DELIVERED),
    Example("resend", "sent", _resend("sent"), "sent", SENT),
    Example("resend", "delayed", _resend("delivery_delayed"), "deferred", SENT),
    Example(
        "resend",
        "bounced",
        _resend_bounce("Permanent", "General"),
        "bounced",
        BOUNCED,
        "bounced",
        word="General",
        response="The recipient's email provider sent a hard bounce message.",
    ),
    Example(
        "resend",
        "transient bounce",
        _resend_bounce("Transient", "MailboxFull"),
        "bounced",
        SENT,
        "bounced",
        permanent=False,
        word="MailboxFull",
        response="The recipient's email provider sent a hard bounce message.",
    ),
    Example("resend", "complained", _resend("complained"), "complained", COMPLAINED),
]


# Mailgun's documentation: "Event structure"
def _mailgun(kind: str, **fields: Any) -> dict[str, Any]:
    data = {
        "id": "CPgfbmQMTCKtHW6uIWtuVe",
        "event": kind,
        "timestamp": EPOCH,
        "recipient": TO,
        "user-variables": METADATA,
        "tags": [],
        "message": {"headers": {"message-id": "1@example.com", "to": TO}},
        **fields,
    }
    return {"event-data": data}


MAILGUN = [
    Example(
        "mailgun",
        "delivered",
        _mailgun("delivered", **{"delivery-status": {"code": 250, "message": "OK", "description": ""}}),
        "delivered",
        DELIVERED,
        response="OK",
    ),
    Example(
        "mailgun",
        "permanent failure",
        _mailgun("failed", severity="permanent", reason="bounce", **{"delivery-status": {"message": UNKNOWN_USER}}),
        "bounced",
        BOUNCED,
        "bounced",
        word="bounce",
        response=UNKNOWN_USER,
    ),
    Example(
        "mailgun",
        "temporary failure",
        _mailgun("failed", severity="temporary", reason="generic", **{"delivery-status": {"message": "busy"}}),
        "deferred",
        SENT,
        "other",
        word="generic",
        response="busy",
    ),
    Example("mailgun", "complained", _mailgun("complained"), "complained", COMPLAINED),
    Example("mailgun", "unsubscribed", _mailgun("unsubscribed"), "unsubscribed", SENT),
]


# SendGrid's documentation: "Event webhook reference"
def _sendgrid(kind: str, **fields: Any) -> list[dict[str, Any]]:
    return [
        {
            "email": TO,
            "timestamp": EPOCH,
            "smtp-id": "<1@example.com>",
            "event": kind,
            "sg_event_id": "c2dfZXZlbnRfaWQ",
            "sg_message_id": "14c5d75ce93.dfd.64b469",
            **METADATA,
            **fields,
        }
    ]


SENDGRID = [
    Example("sendgrid", "processed", _sendgrid("processed"), "queued", None),
    Example(
        "sendgrid", "delivered", _sendgrid("delivered", response="250 OK"), "delivered", DELIVERED, response="250 OK"
    ),
    Example(
        "sendgrid",
        "deferred",
        _sendgrid("deferred", response="400 try again later", attempt="5"),
        "deferred",
        SENT,
        response="400 try again later",
    ),
    Example(
        "sendgrid",
        "bounce",
        _sendgrid("bounce", reason=UNKNOWN_USER, status="5.1.1", type="bounce"),
        "bounced",
        BOUNCED,
        "bounced",
        word="bounce",
        response=UNKNOWN_USER,
    ),
    Example(
        "sendgrid",
        "blocked",
        _sendgrid("bounce", reason=UNKNOWN_USER, status="5.0.0", type="blocked"),
        "bounced",
        SENT,
        "bounced",
        permanent=False,
        word="blocked",
        response=UNKNOWN_USER,
    ),
    Example("sendgrid", "dropped", _sendgrid("dropped", reason="Bounced Address"), "rejected", BOUNCED, "bounced"),
    Example("sendgrid", "spamreport", _sendgrid("spamreport"), "complained", COMPLAINED),
]


# Brevo's documentation: "Transactional webhooks"
def _brevo(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": kind,
        "email": TO,
        "id": 1,
        "message-id": "<1@example.com>",
        "ts_epoch": EPOCH * 1000,
        "subject": "Hello",
        "X-Mailin-custom": f'{{"{ID_TAG}": "{ENCODED}"}}',
        **fields,
    }


BREVO = [
    Example("brevo", "request", _brevo("request"), "queued", None, word="request"),
    Example("brevo", "delivered", _brevo("delivered"), "delivered", DELIVERED, word="delivered"),
    Example(
        "brevo",
        "hard bounce",
        _brevo("hard_bounce", reason=UNKNOWN_USER),
        "bounced",
        BOUNCED,
        "bounced",
        word="hard_bounce",
        response=UNKNOWN_USER,
    ),
    Example(
        "brevo",
        "soft bounce",
        _brevo("soft_bounce", reason="full"),
        "bounced",
        SENT,
        "bounced",
        permanent=False,
        word="soft_bounce",
        response="full",
    ),
    Example("brevo", "spam", _brevo("spam"), "complained", COMPLAINED, "spam", word="spam"),
    Example("brevo", "blocked", _brevo("blocked"), "rejected", BOUNCED, "blocked", word="blocked"),
]


# Mailjet's guide: "Event API"
def _mailjet(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "event": kind,
        "time": EPOCH,
        "MessageID": 19421777835146490,
        "email": TO,
        "Payload": f'{{"{ID_TAG}": "{ENCODED}"}}',
        **fields,
    }


MAILJET = [
    Example(
        "mailjet",
        "sent",
        [_mailjet("sent", smtp_reply="sent (250 2.0.0 OK)")],
        "delivered",
        DELIVERED,
        response="sent (250 2.0.0 OK)",
    ),
    Example("mailjet", "not grouped", _mailjet("sent"), "delivered", DELIVERED),
    Example(
        "mailjet",
        "hard bounce",
        [_mailjet("bounce", hard_bounce=True, blocked=True, error_related_to="recipient", error="user unknown")],
        "bounced",
        BOUNCED,
        "bounced",
        word="user unknown",
    ),
    Example(
        "mailjet",
        "soft bounce",
        [_mailjet("bounce", hard_bounce=False, blocked=False, error_related_to="recipient", error="quota exceeded")],
        "bounced",
        SENT,
        "bounced",
        permanent=False,
        word="quota exceeded",
    ),
    Example("mailjet", "spam", [_mailjet("spam", source="JMRPP")], "complained", COMPLAINED),
]


# MailerSend's API reference: "Webhooks", "Payload example"
def _mailersend(kind: str, morph: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": f"activity.{kind}",
        "created_at": ISO,
        "data": {
            "object": "activity",
            "id": "62f114f8165fe0d8db0288e3",
            "type": kind,
            "created_at": ISO,
            "email": {
                "object": "email",
                "message": {"object": "message", "id": "62f114f7165fe0d8db0288e2"},
                "recipient": {"object": "recipient", "email": TO},
                "tags": [ENCODED],
            },
            "morph": morph,
        },
    }


MAILERSEND = [
    Example("mailersend", "delivered", _mailersend("delivered"), "delivered", DELIVERED, word="delivered"),
    Example(
        "mailersend",
        "hard bounce",
        _mailersend("hard_bounced", {"object": "recipient_bounce", "reason": UNKNOWN_USER}),
        "bounced",
        BOUNCED,
        "bounced",
        word="hard_bounced",
        response=UNKNOWN_USER,
    ),
    Example(
        "mailersend",
        "soft bounce",
        _mailersend("soft_bounced", {"object": "recipient_bounce", "reason": "full"}),
        "bounced",
        SENT,
        "bounced",
        permanent=False,
        word="soft_bounced",
        response="full",
    ),
    Example(
        "mailersend",
        "complaint",
        _mailersend("spam_complaint", {"object": "spam_complaint"}),
        "complained",
        COMPLAINED,
        "spam",
        word="spam_complaint",
    ),
]


# Mailtrap's documentation: "Webhooks", "Payload"
def _mailtrap(kind: str, **fields: Any) -> dict[str, Any]:
    event = {
        "event": kind,
        "message_id": "00000000-0000-0000-0000-000000000001",
        "sending_stream": "transactional",
        "email": TO,
        "timestamp": EPOCH,
        "event_id": "00000000-0000-0000-0000-000000000002",
        "custom_variables": METADATA,
        **fields,
    }
    return {"events": [event]}


MAILTRAP = [
    Example("mailtrap", "delivery", _mailtrap("delivery"), "delivered", DELIVERED),
    Example(
        "mailtrap",
        "bounce",
        _mailtrap("bounce", response=UNKNOWN_USER, bounce_category="badmailbox"),
        "bounced",
        BOUNCED,
        "bounced",
        word="badmailbox",
        response=UNKNOWN_USER,
    ),
    Example("mailtrap", "soft bounce", _mailtrap("soft bounce"), "deferred", SENT, "other"),
    Example("mailtrap", "spam", _mailtrap("spam"), "complained", COMPLAINED, "spam"),
]


# SparkPost's API reference: "Events", sample events
def _sparkpost(group: str, kind: str, **fields: Any) -> list[dict[str, Any]]:
    event = {
        "type": kind,
        "event_id": "92356927693813856",
        "timestamp": str(EPOCH),
        "transmission_id": "65832150921904138",
        "raw_rcpt_to": TO,
        "rcpt_meta": METADATA,
        "campaign_id": "",
        **fields,
    }
    return [{"msys": {group: event}}]


SPARKPOST = [
    Example("sparkpost", "delivery", _sparkpost("message_event", "delivery"), "delivered", DELIVERED),
    Example(
        "sparkpost",
        "invalid recipient",
        _sparkpost("message_event", "bounce", bounce_class="10", raw_reason=UNKNOWN_USER),
        "bounced",
        BOUNCED,
        "invalid",
        word="10",
        response=UNKNOWN_USER,
    ),
    Example(
        "sparkpost",
        "mailbox full",
        _sparkpost("message_event", "bounce", bounce_class="22", raw_reason="full"),
        "bounced",
        SENT,
        "bounced",
        permanent=False,
        word="22",
        response="full",
    ),
    Example("sparkpost", "complaint", _sparkpost("message_event", "spam_complaint"), "complained", COMPLAINED),
    Example("sparkpost", "unsubscribe", _sparkpost("unsubscribe_event", "link_unsubscribe"), "unsubscribed", SENT),
]


# Mailchimp's developer guide: "Track and respond to activity with webhooks", message webhook format
def _mandrill(kind: str, **fields: Any) -> list[dict[str, Any]]:
    message = {"ts": EPOCH, "email": TO, "_id": "exampleaaaa", "metadata": METADATA, "tags": [], **fields}
    return [{"event": kind, "ts": EPOCH, "_id": "exampleaaaa", "msg": message}]


MANDRILL = [
    Example("mandrill", "send", _mandrill("send", state="sent"), "sent", SENT, word="send"),
    Example(
        "mandrill",
        "hard bounce",
        _mandrill("hard_bounce", bounce_description="bad_mailbox", diag=UNKNOWN_USER),
        "bounced",
        BOUNCED,
        "bounced",
        word="hard_bounce",
        response=UNKNOWN_USER,
    ),
    Example(
        "mandrill",
        "soft bounce",
        _mandrill("soft_bounce", bounce_description="mailbox_full", diag="full"),
        "bounced",
        SENT,
        "bounced",
        permanent=False,
        word="soft_bounce",
        response="full",
    ),
    Example("mandrill", "spam", _mandrill("spam"), "complained", COMPLAINED, word="spam"),
]


# Postal's documentation: "Webhooks", "Message status events" and "Message bounce"
def _postal(kind: str, **payload: Any) -> dict[str, Any]:
    return {"event": kind, "timestamp": EPOCH, "uuid": "00000000-0000-0000-0000-000000000001", "payload": payload}


_POSTAL_MESSAGE = {"id": 12345, "token": "abcdef123", "direction": "outgoing", "to": TO, "tag": ENCODED}
POSTAL = [
    Example(
        "postal",
        "sent",
        _postal("MessageSent", message=_POSTAL_MESSAGE, status="Sent", details="Message sent by SMTP", output="250 OK"),
        "delivered",
        DELIVERED,
        word="MessageSent",
        response="Message sent by SMTP; 250 OK",
    ),
    Example(
        "postal",
        "delayed",
        _postal("MessageDelayed", message=_POSTAL_MESSAGE, status="SoftFail", output="450 busy"),
        "deferred",
        SENT,
        word="MessageDelayed",
        response="450 busy",
    ),
    Example(
        "postal",
        "failed",
        _postal("MessageDeliveryFailed", message=_POSTAL_MESSAGE, status="HardFail", output=UNKNOWN_USER),
        "failed",
        BOUNCED,
        word="MessageDeliveryFailed",
        response=UNKNOWN_USER,
    ),
    Example(
        "postal",
        "bounced",
        _postal("MessageBounced", original_message=_POSTAL_MESSAGE, bounce={"id": 2, "direction": "incoming"}),
        "bounced",
        BOUNCED,
        "bounced",
        word="MessageBounced",
    ),
]


# Unisender Go's API reference: "Callback format"
def _unisender_go(status: str, delivery: str = "", response: str = "") -> dict[str, Any]:
    info = {"delivery_status": delivery, "destination_response": response} if delivery else {}
    data = {
        "job_id": "1a3Q2V-0000OZ-S0",
        "metadata": METADATA,
        "email": TO,
        "status": status,
        "event_time": "2023-11-14 22:13:20",
        "delivery_info": info,
    }
    event = {"event_name": "transactional_email_status", "event_data": data}
    return {"events_by_user": [{"user_id": 456, "project_id": "6123462132634", "events": [event]}]}


UNISENDER_GO = [
    Example("unisender_go", "sent", _unisender_go("sent"), "sent", SENT),
    Example("unisender_go", "delivered", _unisender_go("delivered"), "delivered", DELIVERED),
    Example(
        "unisender_go",
        "hard bounce",
        _unisender_go("hard_bounced", "err_user_unknown", UNKNOWN_USER),
        "bounced",
        BOUNCED,
        "bounced",
        word="err_user_unknown",
        response=f"err_user_unknown; {UNKNOWN_USER}",
    ),
    Example("unisender_go", "spam", _unisender_go("spam"), "complained", COMPLAINED),
]

EXAMPLES = [
    *(*POSTMARK, *RESEND, *MAILGUN, *SENDGRID, *BREVO, *MAILJET, *MAILERSEND, *MAILTRAP, *SPARKPOST, *MANDRILL),
    *(*POSTAL, *UNISENDER_GO),
]
ONE_EACH = list({example.provider: example for example in reversed(EXAMPLES)}.values())
