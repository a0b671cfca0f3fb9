"""Installs all replacements in Celery and kombu, both for worker programs and for embedded workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery import signals
from celery.app.task import Task
from celery.worker.consumer.consumer import Consumer
from kombu.log import get_logger

from celery_sqs.admission import Message
from celery_sqs.patches.pools import learn_pool, write_jobs_uninterrupted
from celery_sqs.patches.remote_control import answer_commands, keep_reply_queues, show_receiving, spare_events
from celery_sqs.receiving import warn_of_fifo_concurrency
from celery_sqs.request import Request
from celery_sqs.signals import defer_stop_signals
from celery_sqs.sqs.dead_letters import Reason
from celery_sqs.watchdog import Watchdog

if TYPE_CHECKING:
    from kombu.transport import SQS, virtual


logger = get_logger(__name__)

NOT_A_TASK = Reason("NotAMessage", "the body is not a Celery message")
NOT_DECODABLE = Reason("NotAMessage", "the body cannot be decoded: it is not what its content type says")

_celerys_on_ready = Consumer.on_ready
_celerys_on_decode_error = Consumer.on_decode_error
_celerys_on_unknown_message = Consumer.on_unknown_message
_seen: WeakSet[Any] = WeakSet()


def install(transport_class: type[SQS.Transport]) -> None:
    """Install the replacements that every process needs. Those for a worker follow when it is ready.

    They use `on_ready`, because an embedded worker (celery.contrib.testing.worker) never sends the signal
    `worker_ready`.
    """

    def on_ready(consumer: Any) -> None:
        _celerys_on_ready(consumer)
        transport = consumer.connection.transport
        if isinstance(transport, transport_class):
            transport.consumer_loop.serves_worker = True  # type: ignore[attr-defined]  # ours has it
            if consumer not in _seen:  # Celery calls this again after each lost connection
                _seen.add(consumer)
                _prepare(consumer)

    Consumer.on_ready = on_ready
    answer_commands()
    write_jobs_uninterrupted()
    # When a worker starts, Celery asks each task for its request class. It is set here, so that a project needs only
    # the setting for the transport.
    Task.Request = Request
    keep_reply_queues()
    # Celery would acknowledge a message that it cannot decode, so that the message would be lost. It would also log the
    # content of messages that it cannot decode or does not know.
    Consumer.on_decode_error = _on_decode_error
    Consumer.on_unknown_message = _on_unknown_message


def _prepare(consumer: Any) -> None:
    """Prepare a worker that uses our transport, before it gets its first message."""
    learn_pool(consumer.pool)
    show_receiving(consumer)
    spare_events(consumer)
    defer_stop_signals(consumer)
    warn_of_fifo_concurrency(consumer)
    Watchdog(consumer).start()


def _on_decode_error(consumer: Consumer, message: virtual.Message, exc: Exception) -> None:
    if not isinstance(message, Message):  # it came through another transport
        _celerys_on_decode_error(consumer, message, exc)
        return
    # Only the error's name is logged, because the text of some errors quotes the body.
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
