"""The reports of the services behind django-anymail, which reads the format of each."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from requests.structures import CaseInsensitiveDict

import emails.django_settings  # noqa: F401 (anymail needs it)
from emails.encoded_id import ID_TAG, decoded_id
from emails.events import DeliveryEvent, EventType, RejectReason
from emails.message import InvalidMessage
from emails.webhooks.envelope import Envelope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.http import QueryDict

LONGEST_WORD = 40
KINDS = {kind.value: kind for kind in EventType}
REASONS = {reason.value: reason for reason in RejectReason}


@dataclass(frozen=True)
class Format:
    """What anymail leaves out of a service's reports, and where it is found in them."""

    view: str
    word_at: tuple[str, ...] = ()  # the service's own classification of the event
    passing_at: tuple[str, ...] = ()  # what says whether a bounce is about this email only
    passing: frozenset[object] = frozenset()  # its values if another email to the address may be delivered


FORMATS = {
    # Brevo's documentation, "Transactional webhooks"
    "brevo": Format("BrevoTrackingWebhookView", ("event",), ("event",), frozenset({"soft_bounce"})),
    # MailerSend's API reference, "Webhooks": available events
    "mailersend": Format(
        "MailerSendTrackingWebhookView", ("data", "type"), ("data", "type"), frozenset({"soft_bounced"})
    ),
    "mailgun": Format(  # Mailgun's documentation, "Events": a failure is temporary or permanent
        "MailgunTrackingWebhookView", ("event-data", "reason"), ("event-data", "severity"), frozenset({"temporary"})
    ),
    # Mailjet's guide, "Event API": bounce
    "mailjet": Format("MailjetTrackingWebhookView", ("error",), ("hard_bounce",), frozenset({False})),
    "mailtrap": Format("MailtrapTrackingWebhookView", ("bounce_category",)),
    # Mailchimp's developer guide, "Track and respond to activity with webhooks"
    "mandrill": Format("MandrillCombinedWebhookView", ("event",), ("event",), frozenset({"soft_bounce"})),
    "postal": Format("PostalTrackingWebhookView", ("event",)),
    "postmark": Format(  # Postmark's documentation, "Bounce API": bounce types
        "PostmarkTrackingWebhookView", ("Type",), ("Type",), frozenset({"SoftBounce", "VirusNotification"})
    ),
    # Resend's documentation, "Email bounces"
    "resend": Format(
        "ResendTrackingWebhookView",
        ("data", "bounce", "subType"),
        ("data", "bounce", "type"),
        frozenset({"Transient", "Undetermined"}),
    ),
    # SendGrid's documentation, "Event webhook reference": a bounce of the type `blocked` is about this email
    "sendgrid": Format("SendGridTrackingWebhookView", ("type",), ("type",), frozenset({"blocked", "expired"})),
    "sparkpost": Format(  # SparkPost's support, "Bounce classification codes": soft and undetermined ones
        "SparkPostTrackingWebhookView",
        ("msys", "message_event", "bounce_class"),
        ("msys", "message_event", "bounce_class"),
        frozenset({"1", "20", "21", "22", "23", "24", "40", "70", "100"}),
    ),
    "unisender_go": Format("UnisenderGoTrackingWebhookView", ("delivery_info", "delivery_status")),
}


class _Envelope(BaseModel):
    """An envelope in a message. Anybody who may send to the queue can write anything there."""

    model_config = ConfigDict(extra="ignore", strict=True, hide_input_in_errors=True)

    provider: str
    received: AwareDatetime
    headers: dict[str, str] = {}
    body: str


class _Request:
    """What anymail reads of a request."""

    def __init__(self, envelope: Envelope) -> None:
        self.body = envelope.body.encode(errors="replace")
        self.headers = CaseInsensitiveDict(envelope.headers)
        self.content_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def POST(self) -> QueryDict:  # noqa: N802 (Django's name)
        from django.http import QueryDict  # noqa: PLC0415 (only for Mandrill)

        return QueryDict(self.body, encoding="utf-8")


def envelope_of(callback: Mapping[str, Any]) -> Envelope:
    """Return the envelope.

    Raises:
        InvalidMessage: it is not a valid envelope, or the service is unknown here.
    """
    try:
        found = _Envelope.model_validate_json(json.dumps(callback))
    except ValidationError as error:
        wrong = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors() if problem["loc"]}))
        raise InvalidMessage("InvalidCallback", f"wrong or missing: {wrong}") from None
    if found.provider not in FORMATS:
        raise InvalidMessage("UnknownCallback", "the provider is not one whose callbacks we know")
    return Envelope(found.provider, found.received.astimezone(UTC), found.headers, found.body)


def parse(envelope: Envelope) -> tuple[list[DeliveryEvent], InvalidMessage | None]:
    """Return the events, which may be about several emails, and why others could not be read, if any."""
    events: list[DeliveryEvent] = []
    invalid = None
    for found in _found(envelope):
        try:
            events.append(_event(envelope, found))
        except InvalidMessage as error:
            invalid = error
    return events, invalid


def _found(envelope: Envelope) -> list[Any]:
    """Return anymail's events, or an InvalidMessage in place of each that it cannot read."""
    try:
        return _anymail_events(envelope)
    except InvalidMessage as error:
        parts = envelope.parts()
        if len(parts) == 1:
            return [error]
    found: list[Any] = []
    for part in parts:
        try:
            found += _anymail_events(part)
        except InvalidMessage as error:
            found.append(error)
    return found


def _anymail_events(envelope: Envelope) -> list[Any]:
    view = getattr(import_module(f"anymail.webhooks.{envelope.provider}"), FORMATS[envelope.provider].view)
    try:
        # Its constructor would ask for the secrets, which only the receiver has. parse_events does not use them.
        return list(view.__new__(view).parse_events(_Request(envelope)))
    except Exception as error:  # noqa: BLE001 (the body may have any form)
        name = type(error).__name__
        detail = f"it is not a callback as {envelope.provider} documents it ({name})"
        raise InvalidMessage("InvalidCallback", detail) from None


def _event(envelope: Envelope, found: Any) -> DeliveryEvent:
    if isinstance(found, InvalidMessage):
        raise found
    form = FORMATS[envelope.provider]
    kind = KINDS.get(found.event_type, EventType.UNKNOWN)
    passing = kind == EventType.BOUNCED and _at(found.esp_event, form.passing_at) in form.passing
    response = "; ".join(_text(text) for text in (found.description, found.mta_response) if text)
    return DeliveryEvent(
        _email_id(found),
        kind,
        _text(found.recipient),
        _moment(found.timestamp, envelope.received),
        envelope.provider,
        _text(found.message_id),
        REASONS.get(found.reject_reason) or (RejectReason.BOUNCED if kind == EventType.BOUNCED else None),
        permanent=not passing,
        # The row shows this word, so it must have no room for anybody's text.
        description=_word(_at(found.esp_event, form.word_at)),
        diagnostic=response,
    )


def _email_id(found: Any) -> str:
    """Return the email's id, which the service got as metadata or, if it has none, as the only tag."""
    metadata, tags = found.metadata, found.tags
    encoded = metadata.get(ID_TAG) if isinstance(metadata, dict) else None
    if encoded is None and isinstance(tags, list) and tags and not metadata:
        encoded = tags[0]
    if not isinstance(encoded, str):
        raise InvalidMessage("NoEmailId", f"it has no {ID_TAG} among the metadata and tags, so it is not our email")
    return decoded_id(encoded)


def _moment(value: object, otherwise: datetime) -> datetime:
    if not isinstance(value, datetime):
        return otherwise
    with suppress(OverflowError, ValueError):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return otherwise


def _at(value: object, path: tuple[str, ...]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str | bool) else None


def _word(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(c for c in text[:LONGEST_WORD] if (c.isascii() and c.isalnum()) or c in " ._-")


def _text(value: object) -> str:
    return str(value).encode(errors="replace").decode() if isinstance(value, str | int) else ""
