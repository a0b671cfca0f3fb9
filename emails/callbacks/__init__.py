"""Turns messages of the callbacks queue into events. Each provider's format has its own module."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from emails.callbacks import ses
from emails.message import InvalidMessage, out_of_envelope
from emails.webhooks.signatures import INSTALL, SCHEMES
from settings import SettingsError
from settings.environment import variable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emails.events import DeliveryEvent
    from emails.webhooks.settings import WebhookSettings

WEBHOOK_KEYS = ("provider", "received", "body")


class PartlyInvalid(InvalidMessage):
    """Some events of a callback cannot be read. The others are here."""

    def __init__(self, invalid: InvalidMessage, events: list[DeliveryEvent]) -> None:
        super().__init__(invalid.reason, invalid.detail)
        self.events = events


def parse_callback(body: str) -> list[DeliveryEvent]:
    """Return the events in the body, bare or inside an SNS or EventBridge envelope, or from a webhook.

    Those of a webhook may be about several emails.

    The list is empty if a provider only tests whether its topic works.

    Raises:
        InvalidMessage: the body is not a callback that we know, or it is not about one of our emails.
        PartlyInvalid: this is so for some of its events.
    """
    try:
        callback = out_of_envelope(body, *ses.KEYS, WEBHOOK_KEYS[0])
    except InvalidMessage:
        if ses.TOPIC_TEST.search(body):
            return []
        raise
    if any(key in callback for key in ses.KEYS):
        return ses.parse(callback)
    if all(key in callback for key in WEBHOOK_KEYS):
        return _of_webhook(callback)
    raise InvalidMessage(
        "UnknownCallback",
        f"it is not a callback that we know: it has neither {' nor '.join(ses.KEYS)}, and is not from a webhook",
    )


def check_reader(settings: WebhookSettings) -> None:
    """Check that webhooks can be read, if their secrets are set.

    Raises:
        SettingsError: the extra `anymail` is not installed.
    """
    names = [variable(scheme.setting) for scheme in SCHEMES.values() if scheme.secrets(settings)]
    if names and find_spec("anymail") is None:
        raise SettingsError(
            f"{names[0]}: reading webhooks needs the extra `anymail`, which is not installed: {INSTALL}"
        )


def _of_webhook(callback: Mapping[str, Any]) -> list[DeliveryEvent]:
    if find_spec("anymail") is None:
        raise InvalidMessage("ExtraMissing", f"reading webhooks needs the extra `anymail`: {INSTALL}")
    from emails.callbacks import anymail  # noqa: PLC0415 (an extra, and slow to import)

    events, invalid = anymail.parse(anymail.envelope_of(callback))
    if invalid:
        raise PartlyInvalid(invalid, events)
    return events
