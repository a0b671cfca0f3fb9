"""How a message is published: because of the task that runs in this thread, or else at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from celery._state import get_current_worker_task

from celery_sqs import delays
from celery_sqs.exceptions import MessageTooLarge, PublishDenied, PublishRefused
from celery_sqs.held_messages import held_messages
from celery_sqs.sqs.batches import MAX_MESSAGE_BYTES
from celery_sqs.sqs.dead_letters import message_bytes
from celery_sqs.sqs.errors import ACCESS_DENIED, code_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.held_message import HeldMessage
    from celery_sqs.sqs.queue import Queue


def publish(target: Queue, parameters: dict[str, Any]) -> None:
    """Send the message.

    Raises:
        MessageTooLarge, PublishDenied, PublishRefused
    """
    if (size := message_bytes(parameters)) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"the message has {size} bytes with its attributes; SQS takes {MAX_MESSAGE_BYTES}")
    parent = _current_message()
    # Two batches of a FIFO queue may overtake each other.
    if parent and not target.is_fifo:
        parent.publish(target, parameters)
        return
    try:
        target.send(parameters)
    except ClientError as error:
        code = code_of(error)
        if code in ACCESS_DENIED or target.is_final_for_send(code):
            raise publish_error(error, target.name, target.is_own()) from error
        raise


def to_parameters(
    target: Queue, message: dict[str, Any], delay: int | None, encode: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """What SQS is asked to send, in kombu's terms: message attributes, group, deduplication id and delay."""
    properties = message["properties"]
    parameters: dict[str, Any] = {}
    if attributes := properties.pop("message_attributes", None):
        parameters["MessageAttributes"] = attributes
    if group := properties.get("MessageGroupId", _current_group()):
        parameters["MessageGroupId"] = group
    until_eta = delays.delay_seconds(message["headers"])
    if target.is_fifo:
        # SQS refuses a DelaySeconds here: whoever receives the message lets it wait for its eta (`Admission`).
        if delay and delay > until_eta:
            message["headers"] = {**message["headers"], "eta": delays.eta_in(delay)}
        parameters.setdefault("MessageGroupId", "default")
        parameters["MessageDeduplicationId"] = properties.get("MessageDeduplicationId") or properties["delivery_tag"]
    elif delay is not None or until_eta:
        parameters["DelaySeconds"] = max(delay or 0, until_eta)
    parameters["MessageBody"] = encode(message)
    return parameters


def publish_error(error: ClientError, queue: str, is_own: bool) -> PublishDenied | PublishRefused:
    """What a publish raises at once: kombu would try again what it knows for an error of the connection."""
    code = code_of(error)
    if code in ACCESS_DENIED and is_own:
        return PublishDenied(queue, code)
    return PublishRefused(f"SQS refuses the message for queue {queue}: {code}")


def _current_message() -> HeldMessage | None:
    """What this process holds of the task that runs in this thread; none where it was acknowledged before it ran."""
    held = held_messages().get(_current_properties().get("delivery_tag", ""))
    return held if held and held.is_open else None


def _current_group() -> str | None:
    """The message group of the task that runs in this thread, also where another process holds its message."""
    message = _current_properties().get("delivery_info", {}).get("sqs_message", {})
    group: str | None = message.get("Attributes", {}).get("MessageGroupId")
    return group


def _current_properties() -> dict[str, Any]:
    """Of the message whose task runs in this thread, and not of a task that it calls as a function."""
    task = get_current_worker_task()
    return (task.request.properties if task else None) or {}
