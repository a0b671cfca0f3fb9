"""Verifies a webhook's request and wraps it for the callbacks queue: `{provider, received, headers, body}`.

A worker of a version before webhooks does not know this envelope, and makes it a dead letter.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from celery_sqs.sqs.batches import MAX_MESSAGE_BYTES
from emails.webhooks.signatures import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emails.webhooks.request import WebhookRequest

# `svix-id` identifies a report of Resend.
KEPT_HEADERS = ("content-type", "svix-id")
LARGEST_BODY = 900 * 1024
MAX_HEADER = 500  # characters that are kept


class TooLarge(Exception):
    """The body, or one event in it, does not fit a message of SQS."""


def accept(provider: str, request: WebhookRequest, secrets: Sequence[str], now: float) -> list[str]:
    """Return the messages for the callbacks queue: one, or one for each event if they do not fit one message.

    Raises:
        NotVerified: the request has no valid signature or password.
        TooLarge: the body is too large, or one event in it is.
    """
    if len(request.body) > LARGEST_BODY:
        raise TooLarge
    SCHEMES[provider].verify(request, secrets, now)
    headers = {name: request.headers[name][:MAX_HEADER] for name in KEPT_HEADERS if name in request.headers}
    envelope = Envelope(provider, datetime.fromtimestamp(now, UTC), headers, request.body.decode(errors="replace"))
    text = str(envelope)
    if len(text) <= MAX_MESSAGE_BYTES:
        return [text]
    messages = [str(part) for part in envelope.parts()]
    if max(map(len, messages)) > MAX_MESSAGE_BYTES:
        raise TooLarge
    return messages


@dataclass(frozen=True)
class Envelope:
    provider: str
    received: datetime
    headers: dict[str, str]
    body: str

    def __str__(self) -> str:
        """Return the message's text. It is ASCII, because SQS refuses some characters."""
        return json.dumps(
            {
                "provider": self.provider,
                "received": self.received.isoformat(),
                "headers": self.headers,
                "body": self.body,
            }
        )

    def parts(self) -> list[Envelope]:
        """Return an envelope for each event in the body, or this one if the body has only one event."""
        bodies = _SPLIT[self.provider](self.body) if self.provider in _SPLIT else []
        return [Envelope(self.provider, self.received, self.headers, body) for body in bodies] or [self]


def _of_list(body: str) -> list[str]:
    events = _loads(body)
    return [json.dumps([event]) for event in events] if isinstance(events, list) else []


def _of_events(body: str) -> list[str]:
    report = _loads(body)
    events = report.get("events") if isinstance(report, dict) else None
    return [json.dumps({"events": [event]}) for event in events] if isinstance(events, list) else []


def _of_form(body: str) -> list[str]:
    """Return the parts of Mandrill's form."""
    fields = parse_qs(body)
    events = _loads(fields.get("mandrill_events", [""])[-1])
    if not isinstance(events, list):
        return []
    return [urlencode({"mandrill_events": json.dumps([event])}) for event in events]


def _of_user(body: str) -> list[str]:
    """Return the parts of a report of Unisender Go."""
    try:
        report = _loads(body)
        (user,) = report["events_by_user"]
        return [json.dumps({"events_by_user": [{**user, "events": [event]}]}) for event in user["events"]]
    except (KeyError, TypeError, ValueError):
        return []


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_SPLIT: dict[str, Callable[[str], list[str]]] = {
    "mailjet": _of_list,
    "mailtrap": _of_events,
    "mandrill": _of_form,
    "sendgrid": _of_list,
    "sparkpost": _of_list,
    "unisender_go": _of_user,
}
