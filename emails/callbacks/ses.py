"""Amazon SES's notifications: of a configuration set's event publishing, and of an identity's feedback.

Both name what happened to which recipients; the first under `eventType`, with the tags of the email, the second under
`notificationType`, without tags but with the email's own headers, where the identity includes them.

Source: Amazon SES Developer Guide, "Contents of event data that Amazon SES publishes to Amazon SNS" and "Amazon SNS
notification contents for Amazon SES". Both may grow: unknown fields, and values that we do not know, are no error.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from emails.events import DeliveryEvent, EventType
from emails.mailbox import check_visible
from emails.message import InvalidMessage, check_email_id
from emails.providers.contract import RejectReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KEYS = ("eventType", "notificationType")
NAME = "ses"
ID_TAG = "email_id"  # which our provider gives every email
ID_HEADER = "x-email-id"
# What SES sends when a topic is set up; of an event destination it is plain text, alone or in SNS's envelope.
TOPIC_TEST = re.compile(
    r'(^|"Message"\s*:\s*")Successfully validated SNS topic for Amazon SES event publishing\.("|\s*$)'
)
TOPIC_SUBSCRIBED = "AmazonSnsSubscriptionSucceeded"

MAX_RECIPIENTS = 100  # SES takes 50 a message; what names more is none of its notifications


class _Object(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


def _moment(value: object) -> object:
    """SES's times end in Z; a time without an offset is UTC too."""
    if not isinstance(value, str):
        raise ValueError("is no string")  # noqa: TRY004 (pydantic reports a ValueError, and lets a TypeError through)
    moment = datetime.fromisoformat(value)
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("is before the first year or after the last") from None


def _address(value: str) -> str:
    """A recipient. It may have a display name, because SES repeats the To header if a server's report names nobody."""
    check_visible(value.rpartition("<")[2])
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]
Address = Annotated[str, AfterValidator(_address)]


class _Header(_Object):
    name: str = ""
    value: str = ""


class _Mail(_Object):
    message_id: str = Field(alias="messageId")
    timestamp: Moment
    destination: list[Address] = []
    tags: dict[str, list[str]] = {}
    headers: list[_Header] = []


# An RFC 3463 status code, and where a diagnostic has one: at its start or after the SMTP reply code (RFC 2034), so that
# no address or version number of a server is taken for one.
_STATUS_CODE = r"[245]\.\d{1,3}\.\d{1,3}(?!\d|\.\d)"
_STATUS = re.compile(rf"\s*({_STATUS_CODE})")
_DIAGNOSTIC_STATUS = re.compile(rf"(?:^\s*(?:[\w-]+;\s*)?|\b[245]\d\d[ -]#?)({_STATUS_CODE})")


class _Recipient(_Object):
    address: Address = Field(alias="emailAddress")
    action: str = ""  # RFC 3464's: failed, delayed, delivered, relayed, expanded
    status: str = ""
    diagnostic: str = Field(default="", alias="diagnosticCode")

    @property
    def status_code(self) -> str:
        """The RFC 3463 code that its server gave, or nothing."""
        found = _STATUS.match(self.status) or _DIAGNOSTIC_STATUS.search(self.diagnostic)
        return found[1] if found else ""

    @property
    def failed_for_good(self) -> bool:
        """Whether its server says that another try would end alike (RFC 3463, section 3.1: class 5)."""
        return self.status_code.startswith("5.") and self.action.strip().lower() in ("", "failed")


class _Bounce(_Object):
    type: str = Field(alias="bounceType")
    sub_type: str = Field("", alias="bounceSubType")
    recipients: list[_Recipient] = Field([], alias="bouncedRecipients")
    timestamp: Moment

    def type_for(self, recipient: _Recipient) -> str:
        """The bounce's type. SES calls some Transient and General though the recipient's server refuses for good."""
        is_general = (self.type, self.sub_type) == ("Transient", "General")
        return "Permanent" if is_general and recipient.failed_for_good else self.type


class _Complaint(_Object):
    sub_type: str = Field("", alias="complaintSubType")
    feedback_type: str = Field("", alias="complaintFeedbackType")
    recipients: list[_Recipient] = Field([], alias="complainedRecipients")
    timestamp: Moment


class _Delivery(_Object):
    recipients: list[Address] = []
    response: str = Field("", alias="smtpResponse")
    timestamp: Moment


class _Delay(_Object):
    type: str = Field("", alias="delayType")
    recipients: list[_Recipient] = Field([], alias="delayedRecipients")
    timestamp: Moment


class _Reject(_Object):
    reason: str = ""


class _RenderingFailure(_Object):
    message: str = Field("", alias="errorMessage")


class _Timed(_Object):
    timestamp: Moment


class _TopicPreference(_Object):
    status: str = Field("", alias="subscriptionStatus")


class _Preferences(_Object):
    unsubscribed: bool = Field(default=False, alias="unsubscribeAll")
    topics: list[_TopicPreference] = Field(default=[], alias="topicSubscriptionStatus")


class _Subscription(_Object):
    timestamp: Moment
    preferences: _Preferences = Field(default=_Preferences(topicSubscriptionStatus=[]), alias="newTopicPreferences")


# bounceSubType, of what the table does not name by its bounceType.
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

Part = TypeVar("Part", bound=_Object)


class _Notification:
    """A notification's JSON, and the events that it makes."""

    def __init__(self, callback: Mapping[str, Any]) -> None:
        self._callback = callback
        self.mail = self.part("mail", _Mail)
        self._email_id = _email_id(self.mail)

    def part(self, name: str, model: type[Part]) -> Part:
        """Its object of that name.

        Raises:
            InvalidMessage: the text names each field that is wrong, without its value.
        """
        try:
            return model.model_validate(self._callback.get(name, {}))
        except ValidationError as error:
            fields = (".".join(map(str, (name, *problem["loc"]))) for problem in error.errors())
            raise InvalidMessage("InvalidCallback", f"wrong or missing: {', '.join(fields)}"[:500]) from None

    def event(self, kind: EventType, recipient: str, occurred_at: datetime, **rest: Any) -> DeliveryEvent:
        return DeliveryEvent(self._email_id, kind, recipient, occurred_at, NAME, self.mail.message_id, **rest)

    def to_all(self, kind: EventType, occurred_at: datetime, **rest: Any) -> list[DeliveryEvent]:
        return [self.event(kind, address, occurred_at, **rest) for address in self.mail.destination or [""]]

    def of_someone(self, kind: EventType, occurred_at: datetime, **rest: Any) -> list[DeliveryEvent]:
        return [self.event(kind, self.only_recipient, occurred_at, **rest)]

    @property
    def only_recipient(self) -> str:
        """Who is meant if SES names nobody. With several recipients that is unknown, and the event is the email's."""
        return self.mail.destination[0] if len(self.mail.destination) == 1 else ""

    def affected(self, named: list[_Recipient]) -> list[_Recipient]:
        """The recipients that SES names. If it names nobody, the event still counts."""
        return named or [_Recipient(emailAddress=self.only_recipient)]


def parse(callback: Mapping[str, Any]) -> list[DeliveryEvent]:
    """The events of one notification.

    Raises:
        InvalidMessage: it is none, or names no email of ours.
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
    bounce = notification.part("bounce", _Bounce)
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
    complaint = notification.part("complaint", _Complaint)
    kind = EventType.COMPLAINED
    if complaint.feedback_type == "not-spam":  # the recipient takes it out of the spam folder
        kind = EventType.UNKNOWN
    elif complaint.sub_type == "OnAccountSuppressionList":  # of an earlier complaint: this one was never delivered
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
    delivery = notification.part("delivery", _Delivery)
    return [
        notification.event(EventType.DELIVERED, address, delivery.timestamp, diagnostic=delivery.response)
        for address in delivery.recipients or [notification.only_recipient]
    ]


def _deferred(notification: _Notification) -> list[DeliveryEvent]:
    delay = notification.part("deliveryDelay", _Delay)
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


def _sent(notification: _Notification) -> list[DeliveryEvent]:
    return notification.to_all(EventType.SENT, notification.mail.timestamp)


def _rejected(notification: _Notification) -> list[DeliveryEvent]:
    reason = notification.part("reject", _Reject).reason
    return notification.to_all(
        EventType.REJECTED,
        notification.mail.timestamp,
        reject_reason=RejectReason.BLOCKED,
        description=_words("Reject", reason),
    )


def _failed(notification: _Notification) -> list[DeliveryEvent]:
    failure = notification.part("failure", _RenderingFailure)
    return notification.to_all(
        EventType.FAILED,
        notification.mail.timestamp,
        reject_reason=RejectReason.OTHER,
        description="Rendering Failure",
        diagnostic=failure.message,
    )


def _opened(notification: _Notification) -> list[DeliveryEvent]:
    return notification.of_someone(EventType.OPENED, notification.part("open", _Timed).timestamp)


def _clicked(notification: _Notification) -> list[DeliveryEvent]:
    return notification.of_someone(EventType.CLICKED, notification.part("click", _Timed).timestamp)


def _unsubscribed(notification: _Notification) -> list[DeliveryEvent]:
    subscription = notification.part("subscription", _Subscription)
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
    "Send": _sent,
    "Reject": _rejected,
    "Rendering Failure": _failed,
    "Open": _opened,
    "Click": _clicked,
    "Subscription": _unsubscribed,
}


def _email_id(mail: _Mail) -> str:
    encoded = [*mail.tags.get(ID_TAG, []), *(h.value for h in mail.headers if h.name.lower() == ID_HEADER)]
    if not encoded:
        advice = "publish events by a configuration set, or let the identity's feedback include the original headers"
        raise InvalidMessage("NoEmailId", f"it has neither the tag {ID_TAG} nor the header X-Email-Id: {advice}")
    padding = "=" * (-len(encoded[0]) % 4)
    try:
        email_id = base64.b64decode(f"{encoded[0]}{padding}", altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidMessage("InvalidEmailId", "the email's id in it is not base64url of UTF-8") from None
    return check_email_id(email_id)


def _word(value: object) -> str:
    """SES's own word, where it is one: a place for no text of anybody else's."""
    return "".join(c for c in str(value)[:40] if c.isalnum() or c in " .-")


def _words(*values: str) -> str:
    return " ".join(filter(None, map(_word, values)))
