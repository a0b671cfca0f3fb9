"""Adds the reason to a message that is moved to a dead-letter queue, and measures messages."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_sqs.sqs.batches import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ATTRIBUTES = 10  # SQS Developer Guide, "Message metadata": attributes per message


class Reason(NamedTuple):
    """Why a message was dead-lettered: a stable code for programs and a sentence for people.

    Neither may contain anything from the message's body.
    """

    code: str
    detail: str


def with_reason(body: str, attributes: Mapping[str, Mapping[str, Any]], reason: Reason) -> dict[str, dict[str, Any]]:
    """Return the message attributes `Reason` and `Detail`, and as many of the message's own as fit beside the body."""
    ours = {"Reason": string_attribute(reason.code), "Detail": string_attribute(reason.detail)}
    return fitting(body, ours, attributes)


def fitting(
    body: str, ours: Mapping[str, Mapping[str, Any]], attributes: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the message attributes that fit beside the body. Ours take precedence.

    A message may have 10 attributes, and body and attributes together may have 1 MiB (SQS Developer Guide, "Amazon SQS
    message quotas").
    """
    wanted = {name: dict(value) for name, value in ours.items()}
    wanted |= {name: dict(value) for name, value in attributes.items() if name not in wanted}
    kept: dict[str, dict[str, Any]] = {}
    left = MAX_MESSAGE_BYTES - len(body.encode())
    for name, value in wanted.items():
        size = attribute_bytes(name, value)
        if len(kept) < MAX_ATTRIBUTES and size <= left:
            kept[name] = value
            left -= size
    return kept


def task_id_of(body: str) -> str:
    """Return the id of the task in a Celery message's body, or "" if the body is not one."""
    try:
        message = json.loads(body if body.startswith("{") else base64.b64decode(body, validate=True))
        return str(message["headers"]["id"])
    except (LookupError, RecursionError, TypeError, ValueError):
        return ""


def message_bytes(parameters: Mapping[str, Any]) -> int:
    """Return a message's size in bytes as SQS counts it: its body, and its attributes with their names and types."""
    attributes = parameters.get("MessageAttributes", {})
    return len(parameters["MessageBody"].encode()) + sum(attribute_bytes(*item) for item in attributes.items())


def attribute_bytes(name: str, value: Mapping[str, Any]) -> int:
    """Return an attribute's share of a message's size in bytes: its name, its type and its value."""
    content = value.get("StringValue", "").encode() or value.get("BinaryValue", b"")
    return len(name.encode()) + len(value["DataType"].encode()) + len(content)


def string_attribute(text: str) -> dict[str, str]:
    """Return a message attribute of type String."""
    return {"DataType": "String", "StringValue": text}
