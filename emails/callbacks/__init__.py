"""Turns messages of the callbacks queue into events. Each provider's format has its own module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emails.callbacks import ses
from emails.message import InvalidMessage, out_of_envelope

if TYPE_CHECKING:
    from emails.events import DeliveryEvent


def parse_callback(body: str) -> list[DeliveryEvent]:
    """Return the events in the body, bare or inside an SNS or EventBridge envelope. All are about one email.

    The list is empty if a provider only tests whether its topic works.

    Raises:
        InvalidMessage: the body is not a callback that we know, or it is not about one of our emails.
    """
    try:
        callback = out_of_envelope(body, *ses.KEYS)
    except InvalidMessage:
        if ses.TOPIC_TEST.search(body):
            return []
        raise
    if any(key in callback for key in ses.KEYS):
        return ses.parse(callback)
    raise InvalidMessage(
        "UnknownCallback", f"it is not a callback that we know: it has neither {' nor '.join(ses.KEYS)}"
    )
