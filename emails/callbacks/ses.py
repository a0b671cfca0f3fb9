"""Amazon SES's notifications, both from a configuration set's event publishing and from an identity's feedback.

Both say what happened to which recipients. Event publishing has `eventType` and the email's tags. Feedback has
`notificationType` and no tags, but it has the email's own headers if the identity is set up to include them.

Source: Amazon SES Developer Guide, "Contents of event data that Amazon SES publishes to Amazon SNS" and "Amazon SNS
notification contents for Amazon SES".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from emails.callbacks import ses_fields as fields
from emails.encoded_id import ID_HEADER, ID_TAG, decoded_id
from emails.events import DeliveryEvent, EventType, RejectReason
from emails.message import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

KEYS = ("eventType", "notificationType")
NAME = "ses"
# What SES sends when a topic is set up. For an event destination, it is plain text, bare or in SNS's envelope.
TOPIC_TEST = re.compile(
    r'(^|"Message"\s*:\s*")Successfully validated SNS topic for Amazon SES event publishing\.("|\s*$)'
)
TOPIC_SUBSCRIBED = "AmazonSnsSubscriptionSucceeded"

MAX_RECIPIENTS = 100  # SES takes 50 per message, so nothing that names more than this comes from SES


# By bounceSubType. For a subtype that is not in this table, the next table decides by bounceType.
_BOUNCE_REASONS = {
    "NoEmail": RejectReason.BOUNCED,
    "Suppressed": RejectReason.BLOCKED,
    "OnAccountSuppressionList": RejectReason.BLOCKED,
    "UnsubscribedRecipient": RejectReason.UNSUBSCRIBED,
    "ContentRejected": RejectReason.SPAM,
    "MailboxFull": RejectReason.TIMED_OUT,
    "CustomTimeoutExceeded": RejectReason.TIMED_OUT,
    "MessageTooLarge": RejectReason.OTHER,
    "AttachmentRejected": RejectReason.OTHER,
}
_BOUNCE_TYPE_REASONS = {"Permanent": RejectReason.BOUNCED, "Transient": RejectReason.TIMED_OUT}

Part = TypeVar("Part", bound=BaseModel)


class _Notification:
    """A notification's JSON, with methods that make its events."""

    def __init__(self, callback: Mapping[str, Any]) -> None:
        self._callback = callback
        self.mail = self.part("mail", fields.Mail)
        self._email_id = _email_id(self.mail)

    def part(self, name: str, model: type[Part]) -> Part:
        """Return the notification's object of that name.

        Raises:
            InvalidMessage: the object is not valid. The text names each wrong field, without its value.
        """
        try:
            return model.model_validate(self._callback.get(name, {}))
        except ValidationError as error:
            wrong = (".".join(map(str, (name, *problem["loc"]))) for problem in error.errors())
            raise InvalidMessage("InvalidCallback", f"wrong or missing: {', '.join(wrong)}"[:500]) from None

    def event(self, kind: EventType, recipient: str, occurred_at: datetime, **rest: Any) -> DeliveryEvent:
        return DeliveryEvent(self._email_id, kind, recipient, occurred_at, NAME, self.mail.message_id, **rest)

    def to_all(self, kind: EventType, occurred_at: datetime, **rest: Any) -> list[DeliveryEvent]:
        return [self.event(kind, address, occurred_at, **rest) for address in self.mail.destination or [""]]

    def of_someone(self, kind: EventType, occurred_at: datetime, **rest: Any) -> list[DeliveryEvent]:
        return [self.event(kind, self.only_recipient, occurred_at, **rest)]

    @property
    def only_recipient(self) -> str:
        """The recipient that is meant if SES names nobody. "" if there are several: then the event is the email's."""
        return self.mail.destination[0] if len(self.mail.destination) == 1 else ""

    def affected(self, named: list[fields.Recipient]) -> list[fields.Recipient]:
        """Return the recipients that SES names. If it names nobody, the event still counts."""
        return named or [fields.Recipient(emailAddress=self.only_recipient)]


def parse(callback: Mapping[str, Any]) -> list[DeliveryEvent]:
    """Return the events of one notification.

    Raises:
        InvalidMessage: it is not a valid notification, or it does not name one of our emails.
    """
    name = next(callback[key] for key in KEYS if key in callback)
    if name == TOPIC_SUBSCRIBED:
        return []
    notification = _Notification(callback)
    if not isinstance(name, str) or name not in _EVENTS:
        events = notification.to_all(EventType.UNKNOWN, notification.mail.timestamp, description=_word(name))
    else:
        events = _EVENTS[name](notification)
    if len(events) > MAX_RECIPIENTS:
        raise InvalidMessage("InvalidCallback", f"it has more than {MAX_RECIPIENTS} recipients")
    return events


def _bounced(notification: _Notification) -> list[DeliveryEvent]:
    bounce = notification.part("bounce", fields.Bounce)
    events = []
    for recipient in notification.affected(bounce.recipients):
        kind = bounce.type_for(recipient)
        reason = _BOUNCE_REASONS.get(bounce.sub_type, _BOUNCE_TYPE_REASONS.get(kind, RejectReason.OTHER))
        event = notification.event(
            EventType.BOUNCED,
            recipient.address,
            bounce.timestamp,
            reject_reason=reason,
            permanent=kind == "Permanent",
            description=_words(bounce.type, bounce.sub_type, recipient.status_code),
            diagnostic=recipient.diagnostic,
        )
        events.append(event)
    return events


def _complained(notification: _Notification) -> list[DeliveryEvent]:
    complaint = notification.part("complaint", fields.Complaint)
    kind = EventType.COMPLAINED
    if complaint.feedback_type == "not-spam":  # the recipient moved the email out of the spam folder
        kind = EventType.UNKNOWN
    elif complaint.sub_type == "OnAccountSuppressionList":  # for an earlier complaint; this email was never delivered
        kind = EventType.REJECTED
    return [
        notification.event(
            kind,
            recipient.address,
            complaint.timestamp,
            reject_reason=None if kind == EventType.UNKNOWN else RejectReason.SPAM,
            description=_words("Complaint", complaint.sub_type, complaint.feedback_type),
        )
        for recipient in notification.affected(complaint.recipients)
    ]


def _delivered(notification: _Notification) -> list[DeliveryEvent]:
    delivery = notification.part("delivery", fields.Delivery)
    return [
        notification.event(EventType.DELIVERED, address, delivery.timestamp, diagnostic=delivery.response)
        for address in delivery.recipients or [notification.only_recipient]
    ]


def _deferred(notification: _Notification) -> list[DeliveryEvent]:
    delay = notification.part("deliveryDelay", fields.Delay)
    return [
        notification.event(
            EventType.DEFERRED,
            recipient.address,
            delay.timestamp,
            description=_words(delay.type, recipient.status_code),
            diagnostic=recipient.diagnostic,
        )
        for recipient in notification.affected(delay.recipients)
    ]


def _rejected(notification: _Notification) -> list[DeliveryEvent]:
    reason = notification.part("reject", fields.Reject).reason
    return notification.to_all(
        EventType.REJECTED,
        notification.mail.timestamp,
        reject_reason=RejectReason.BLOCKED,
        description=_words("Reject", reason),
    )


def _failed(notification: _Notification) -> list[DeliveryEvent]:
    failure = notification.part("failure", fields.RenderingFailure)
    return notification.to_all(
        EventType.FAILED,
        notification.mail.timestamp,
        reject_reason=RejectReason.OTHER,
        description="Rendering Failure",
        diagnostic=failure.message,
    )


def _unsubscribed(notification: _Notification) -> list[DeliveryEvent]:
    subscription = notification.part("subscription", fields.Subscription)
    left = subscription.preferences.unsubscribed or any(
        topic.status == "OptOut" for topic in subscription.preferences.topics
    )
    kind = EventType.UNSUBSCRIBED if left else EventType.UNKNOWN
    return notification.of_someone(kind, subscription.timestamp, description="Subscription")


_EVENTS: dict[str, Callable[[_Notification], list[DeliveryEvent]]] = {
    "Bounce": _bounced,
    "Complaint": _complained,
    "Delivery": _delivered,
    "DeliveryDelay": _deferred,
    "Send": lambda sent: sent.to_all(EventType.SENT, sent.mail.timestamp),
    "Reject": _rejected,
    "Rendering Failure": _failed,
    "Open": lambda opened: opened.of_someone(EventType.OPENED, opened.part("open", fields.Timed).timestamp),
    "Click": lambda clicked: clicked.of_someone(EventType.CLICKED, clicked.part("click", fields.Timed).timestamp),
    "Subscription": _unsubscribed,
}


def _email_id(mail: fields.Mail) -> str:
    encoded = [*mail.tags.get(ID_TAG, []), *(h.value for h in mail.headers if h.name.lower() == ID_HEADER.lower())]
    if not encoded:
        advice = (
            "publish events through a configuration set, or include the original headers in the identity's feedback"
        )
        raise InvalidMessage("NoEmailId", f"it has neither the tag {ID_TAG} nor the header {ID_HEADER}: {advice}")
    return decoded_id(encoded[0])


def _word(value: object) -> str:
    """Return SES's own word, limited in length and characters so that it has no room for anybody else's text."""
    return "".join(c for c in str(value)[:40] if c.isalnum() or c in " .-")


def _words(*values: str) -> str:
    return " ".join(filter(None, map(_word, values)))
