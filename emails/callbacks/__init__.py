"""What providers say of emails that they were given: a body of the callbacks' queue → events. One format a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emails.callbacks import ses
from emails.message import InvalidMessage, out_of_envelope

if TYPE_CHECKING:
    from emails.events import DeliveryEvent


def parse_callback(body: str) -> list[DeliveryEvent]:
    """The events in the body, bare or inside an SNS or EventBridge envelope; all are of one email.

    None where a provider only tries whether its topic works.

    Raises:
        InvalidMessage: it is no callback of a provider that we know, or one of no email of ours.
    """
    try:
        callback = out_of_envelope(body, *ses.KEYS)
    except InvalidMessage:
        if ses.TOPIC_TEST.search(body):
            return []
        raise
    if any(key in callback for key in ses.KEYS):
        return ses.parse(callback)
    raise InvalidMessage("UnknownCallback", f"it is no callback that we know: it has none of {', '.join(ses.KEYS)}")
