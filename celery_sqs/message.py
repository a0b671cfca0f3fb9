"""A received message, and what Celery's worker does with one that it cannot read."""

from __future__ import annotations

from typing import Any

from celery import signals
from celery.worker.consumer.consumer import Consumer
from kombu.log import get_logger
from kombu.transport import virtual

from celery_sqs.sqs.dead_letters import Reason

logger = get_logger(__name__)

REJECTED = Reason("Rejected", "the worker rejected the message: its log has the message id and the cause")
NOT_A_MESSAGE = Reason("NotAMessage", "the body is no message of kombu's")
NOT_A_TASK = Reason("NotAMessage", "the body is no message of Celery's")
NOT_DECODABLE = Reason("NotAMessage", "the body cannot be decoded: it is not what its content type says")


class Message(virtual.Message):
    """A message that knows, once rejected, why."""

    reject_reason: Reason = REJECTED


def keep_what_celery_cannot_read() -> None:
    """Make Celery's worker reject, with a reason, what it cannot read.

    Celery acknowledges a message that it cannot decode, so that it would be lost, and logs the content of both kinds.
    """
    Consumer.on_decode_error = _on_decode_error
    Consumer.on_unknown_message = _on_unknown_message


_celerys_on_decode_error = Consumer.on_decode_error
_celerys_on_unknown_message = Consumer.on_unknown_message


def _on_decode_error(consumer: Consumer, message: virtual.Message, exc: Exception) -> None:
    if not isinstance(message, Message):  # it came by another transport
        _celerys_on_decode_error(consumer, message, exc)
        return
    # The text of some errors quotes the body.
    _reject(consumer, message, NOT_DECODABLE, type(exc).__name__)


def _on_unknown_message(consumer: Consumer, body: Any, message: virtual.Message) -> None:
    if not isinstance(message, Message):
        _celerys_on_unknown_message(consumer, body, message)
        return
    _reject(consumer, message, NOT_A_TASK, "it names no task")
    signals.task_rejected.send(sender=consumer, message=message, exc=None)


def _reject(consumer: Consumer, message: Message, reason: Reason, cause: str) -> None:
    message_id = message.delivery_info["sqs_message"]["MessageId"]
    logger.error("cannot read message %s of %s: %s", message_id, message.delivery_info["sqs_queue"], cause)
    message.reject_reason = reason
    message.reject_log_error(logger, consumer.connection_errors)
