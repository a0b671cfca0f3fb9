"""Reads the email_id in a message of the raw queue. Only this module knows the envelopes that a body may come in."""

from __future__ import annotations

import json
from typing import Any

from emails.mailbox import CONTROL_CHARACTERS

MAX_EMAIL_ID_BYTES = 190  # in base64url it fits an SES tag value of 256 characters

# By the envelope's Type. Only a person should visit the URL, because any sender to the queue can choose where it leads.
# Source: Amazon SNS Developer Guide, "HTTP/HTTPS subscription confirmation JSON format".
_CONFIRMATIONS = {
    "SubscriptionConfirmation": "an SNS topic asks whether it may send to this queue: if you recognize the TopicArn in"
    " the body, visit the SubscribeURL next to it to confirm the subscription",
    "UnsubscribeConfirmation": "this queue's subscription to an SNS topic was ended: if you recognize the TopicArn in"
    " the body, visit the SubscribeURL next to it to restore the subscription",
}


class InvalidMessage(Exception):
    """A body cannot be understood. `reason` is a stable code; `detail` is a sentence that does not quote the body."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def parse_message(body: str) -> str:
    """Return the email_id in `{"email_id": "..."}`, bare or inside an SNS or EventBridge envelope.

    Raises:
        InvalidMessage: there is no email_id, or it is not valid.
    """
    message = out_of_envelope(body, "email_id")
    if "email_id" not in message:
        raise InvalidMessage("NoEmailId", 'there is no "email_id"')
    return check_email_id(message["email_id"])


def out_of_envelope(body: str, *keys: str) -> dict[str, Any]:
    """Return the JSON object in the body, without its SNS or EventBridge envelope if it has one.

    A body that has one of the keys is not an envelope. Keys and list elements that are null are left out.

    Raises:
        InvalidMessage: there is no JSON object, or SNS asks to confirm a subscription.
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
    except (ValueError, RecursionError):  # a number of more than 4,300 digits is a ValueError too
        raise InvalidMessage("NotJson", f"{what} is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidMessage("NotAnObject", f"{what} is JSON, but not an object")
    return value


def _without_nulls(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the JSON object of these pairs. Null counts as missing: SES writes either for a field without a value."""
    return {
        name: [element for element in value if element is not None] if isinstance(value, list) else value
        for name, value in pairs
        if value is not None
    }


def check_email_id(value: object) -> str:
    """Return the value if it can be an email_id.

    Raises:
        InvalidMessage: it cannot be one. The detail says why.
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
