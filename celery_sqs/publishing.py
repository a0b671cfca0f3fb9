"""Publishes messages, as part of the task that runs in this thread if there is one, or else at once."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from celery._state import get_current_worker_task
from kombu.utils.uuid import uuid

from celery_sqs import delays
from celery_sqs.exceptions import MessageTooLarge, PublishDenied, PublishRefused
from celery_sqs.hand_off import why_not
from celery_sqs.held_messages import held_messages
from celery_sqs.receiving import consumer_of
from celery_sqs.sqs.batches import MAX_MESSAGE_BYTES
from celery_sqs.sqs.dead_letters import message_bytes
from celery_sqs.sqs.errors import ACCESS_DENIED, code_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.held_message import HeldMessage
    from celery_sqs.sqs.queue import Queue


class DeliveryTags:
    """Makes tags that no other message has.

    kombu draws a UUID for each, which releases the GIL.
    """

    def __init__(self) -> None:
        self._process = uuid()
        self._numbers = count()

    def new(self) -> str:
        return f"{self._process}-{next(self._numbers)}"


def publish(target: Queue, parameters: dict[str, Any], headers: dict[str, Any], *, may_hand_off: bool) -> None:
    """Send the message, or hand it off to this worker if `why_not` has no objection. `headers` are Celery's.

    Within a task the message only joins a batch, and the task's own message is kept until SQS has confirmed this one.
    Outside of a task, or if the target is a FIFO queue, this waits for SQS's confirmation.

    Raises:
        MessageTooLarge: the message is larger than 1 MiB with its attributes.
        PublishDenied: SQS denies access to one of the worker's own queues.
        PublishRefused: SQS refuses the message for good.
    """
    if (size := message_bytes(parameters)) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"the message has {size} bytes with its attributes; SQS accepts at most {MAX_MESSAGE_BYTES}"
        )
    parent = _current_message()
    # Messages to a FIFO queue are not batched, because one batch may overtake another.
    if parent and may_hand_off and _hand_off(parent, target, parameters, headers):
        return
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
    """Return the parameters of SQS's SendMessage: body, attributes, message group, deduplication id and delay.

    `message` is in kombu's form, `delay` is in seconds, and `encode` makes the body of it.
    """
    properties = message["properties"]
    parameters: dict[str, Any] = {}
    if attributes := properties.pop("message_attributes", None):
        parameters["MessageAttributes"] = attributes
    if group := properties.get("MessageGroupId", _current_group()):
        parameters["MessageGroupId"] = group
    until_eta = delays.delay_seconds(message["headers"])
    if target.is_fifo:
        # SQS does not accept DelaySeconds for a message on a FIFO queue. The receiver makes it wait until its eta
        # (`Admission`).
        if delay and delay > until_eta:
            message["headers"] = {**message["headers"], "eta": delays.eta_in(delay)}
        parameters.setdefault("MessageGroupId", "default")
        parameters["MessageDeduplicationId"] = properties.get("MessageDeduplicationId") or properties["delivery_tag"]
    elif delay is not None or until_eta:
        parameters["DelaySeconds"] = max(delay or 0, until_eta)
    parameters["MessageBody"] = encode(message)
    return parameters


def publish_error(error: ClientError, queue: str, is_own: bool) -> PublishDenied | PublishRefused:
    """Return the error to raise for a refused publish. kombu does not retry it, as it would a connection error."""
    code = code_of(error)
    if code in ACCESS_DENIED and is_own:
        return PublishDenied(queue, code)
    return PublishRefused(f"SQS refused the message for queue {queue}: {code}")


def _hand_off(parent: HeldMessage, target: Queue, parameters: dict[str, Any], headers: dict[str, Any]) -> bool:
    """Hand the message off to this worker, unless it must go through SQS. Return whether it was handed off."""
    receiver, running = consumer_of(target.url), get_current_worker_task()
    consumed = receiver.consumed(target.url) if receiver else None
    if receiver is None or consumed is None or running is None:
        return False
    task_id, task = headers.get("id", ""), running.app.tasks.get(headers.get("task", ""))
    objection = why_not(
        parent,
        consumed,
        parameters,
        acks_late=None if task is None else bool(task.acks_late),
        is_retry=task_id == running.request.id,
    )
    if not objection:
        receiver.hand_off(consumed, parent, parameters, task_id)
    return not objection


def _current_message() -> HeldMessage | None:
    """Return the held message of the task that runs in this thread.

    Return None if there is no such task, or if its message was acknowledged before the task ran.
    """
    held = held_messages().get(_current_properties().get("delivery_tag", ""))
    return held if held and held.is_open else None


def _current_group() -> str | None:
    """Return the message group of the task that runs in this thread, even if another process holds its message."""
    message = _current_properties().get("delivery_info", {}).get("sqs_message", {})
    group: str | None = message.get("Attributes", {}).get("MessageGroupId")
    return group


def _current_properties() -> dict[str, Any]:
    """Return the properties of the message whose task runs in this thread.

    If that task calls another task as a function, they are still those of the first one.
    """
    task = get_current_worker_task()
    return (task.request.properties if task else None) or {}
