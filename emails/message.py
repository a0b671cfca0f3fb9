"""A raw queue's body → email_id, or why not. Only this module knows the envelopes that a body may come in."""

from __future__ import annotations

import json
from typing import Any

from emails.mailbox import CONTROL_CHARACTERS

MAX_EMAIL_ID_BYTES = 190  # whose base64url form fits an SES tag value of 256 characters

# By the envelope's Type. Nobody but a person visits the URL: whoever may send to the queue chooses where it leads.
# Source: Amazon SNS Developer Guide, "HTTP/HTTPS subscription confirmation JSON format".
_CONFIRMATIONS = {
    "SubscriptionConfirmation": "an SNS topic asks whether it may send to this queue: if you know the TopicArn in the"
    " body, visit the SubscribeURL beside it to confirm the subscription",
    "UnsubscribeConfirmation": "this queue's subscription to an SNS topic was ended: if you know the TopicArn in the"
    " body, visit the SubscribeURL beside it to restore the subscription",
}


class InvalidMessage(Exception):
    """A body is not understood. `reason` is a stable code, `detail` a sentence without the body's content."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def parse_message(body: str) -> str:
    """The email_id in `{"email_id": "..."}`, bare or inside an SNS or EventBridge envelope.

    Raises:
        InvalidMessage
    """
    message = out_of_envelope(body, "email_id")
    if "email_id" not in message:
        raise InvalidMessage("NoEmailId", 'there is no "email_id"')
    return check_email_id(message["email_id"])


def out_of_envelope(body: str, *keys: str) -> dict[str, Any]:
    """The object in the body: itself where it has one of the keys, else what an SNS or EventBridge envelope holds.

    A key or an element that is null is missing from it.

    Raises:
        InvalidMessage
    """
    message = _json_object(body, "the body")
    if any(key in message for key in keys):
        return message
    kind = message.get("Type")
    if isinstance(kind, str) and kind in _CONFIRMATIONS:
        raise InvalidMessage(kind, _CONFIRMATIONS[kind])
    if "Message" in message and "TopicArn" in message:
        if not isinstance(message["Message"], str):
            raise InvalidMessage("InvalidEnvelope", "the SNS envelope's Message is not a string")
        return _json_object(message["Message"], "the SNS envelope's Message")
    if "detail" in message and "detail-type" in message:
        if not isinstance(message["detail"], dict):
            raise InvalidMessage("InvalidEnvelope", "the EventBridge envelope's detail is not an object")
        return message["detail"]
    return message


def _json_object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=_without_nulls)
    except (ValueError, RecursionError):  # a ValueError too: a number of more than 4,300 digits
        raise InvalidMessage("NotJson", f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidMessage("NotAnObject", f"{what} is JSON, but no object")
    return value


def _without_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The JSON object of these pairs. Null means missing: SES writes either for a field without a value."""
    return {
        name: [element for element in value if element is not None] if isinstance(value, list) else value
        for name, value in pairs
        if value is not None
    }


def check_email_id(value: object) -> str:
    """The value, where it may be an email_id.

    Raises:
        InvalidMessage
    """
    if not isinstance(value, str):
        raise InvalidMessage("InvalidEmailId", f"email_id is a {type(value).__name__}, not a string")
    if not value.strip():
        raise InvalidMessage("InvalidEmailId", "email_id is blank")
    if CONTROL_CHARACTERS.search(value):
        raise InvalidMessage("InvalidEmailId", "email_id has a control character or a lone surrogate")
    if len(value.encode()) > MAX_EMAIL_ID_BYTES:
        raise InvalidMessage("InvalidEmailId", f"email_id is longer than {MAX_EMAIL_ID_BYTES} bytes in UTF-8")
    return value
