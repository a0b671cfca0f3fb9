"""Decides what happens to a received message: it goes to the consumer, or it is settled at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.log import get_logger
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str

from celery_sqs import delays, raw_queues
from celery_sqs.compression import MAX_DECOMPRESSED_BYTES, NOT_ACCEPTED, CannotDecompress, decompress
from celery_sqs.control_queues import ControlQueue
from celery_sqs.held_messages import held_messages
from celery_sqs.sqs.dead_letters import Reason

if TYPE_CHECKING:
    from kombu.transport import SQS

    from celery_sqs.held_message import HeldMessage
    from celery_sqs.monitoring import Monitoring
    from celery_sqs.sqs.queue import Queue, ReceivedMessage

logger = get_logger(__name__)

NOT_A_MESSAGE = Reason("NotAMessage", "the body is not a message from kombu")
REJECTED = Reason("Rejected", "the worker rejected the message: its log has the message id and the cause")


class Message(virtual.Message):
    """A kombu message that also has the reason for its rejection, if it is rejected."""

    reject_reason: Reason = REJECTED


class Admission:
    """Reads each message that a channel receives, in kombu's way and as the channel's options say."""

    def __init__(self, channel: SQS.Channel, monitoring: Monitoring | None) -> None:
        options = channel.transport_options
        self.raw_queues: dict[str, str] = options.get("raw_queues") or {}
        self._channel = channel
        self._monitoring = monitoring
        self._visibility_timeout = channel.visibility_timeout
        self._accept_compression = options.get("accept_compression", True)
        self._max_decompressed_bytes = options.get("max_decompressed_bytes", MAX_DECOMPRESSED_BYTES)

    def hold(self, source: Queue, messages: list[ReceivedMessage]) -> list[HeldMessage]:
        """Hold every message of a receive.

        None is handed to the consumer before all are held. If its task gives a message of a FIFO queue back, the
        messages after it in its group are then found and given back as well.
        """
        return [held_messages().add(source, message, self._visibility_timeout) for message in messages]

    def admit(self, queue: str, held: HeldMessage, waiting: set[str]) -> dict[str, Any] | None:
        """Return the message for the consumer, or None if it was settled here or has been given back.

        `waiting` names the message groups of a FIFO queue that have a message from the same receive which is not due
        yet. Later messages of those groups are given back, so that they stay in order.
        """
        if not held.is_open:
            return None
        try:
            return self._examine(queue, held, waiting)
        except Exception as error:  # noqa: BLE001 (no message may end the thread that receives, whatever it contains)
            name = type(error).__name__
            logger.error("the channel raised %s for message %s of %s", name, held.id, queue)
            held.reject(Reason(name, f"the channel raised {name} when it read the message"))
            return None

    def _examine(self, queue: str, held: HeldMessage, waiting: set[str]) -> dict[str, Any] | None:
        source = held.queue
        if source.is_fifo and held.group in waiting:
            held.give_back(after=0)  # SQS delivers it after the message that is not due yet
            return None
        payload = self._to_payload(queue, source, held.received)
        if isinstance(payload, Reason):
            held.reject(payload)
            return None
        payload["properties"]["delivery_info"]["redelivered"] = held.receive_count > 1
        if isinstance(source, ControlQueue):
            if self._monitoring and source.is_for_commands:
                self._monitoring.events.look_again()
            if not source.is_timely(payload):
                held.ack()
                return None
        if delays.is_early(payload["headers"]):
            if source.is_fifo:
                waiting.add(held.group)
                held.give_back(after=delays.invisible_seconds(payload["headers"]))
            else:
                held.delay(delays.delay_seconds(payload["headers"]))
            return None
        return payload

    def _to_payload(self, queue: str, source: Queue, message: ReceivedMessage) -> dict[str, Any] | Reason:
        """Return the message in the form that kombu's virtual transports use, or why kombu cannot read it."""
        channel = self._channel
        # The body is left out, because prefork pickles all of this for its processes.
        known = {name: value for name, value in message.items() if name != "Body"}
        if task := self.raw_queues.get(queue):
            return channel._envelope_payload(raw_queues.to_task_message(message, task), "", known, source.url)
        try:
            text = bytes_to_str(channel._decode_python_message_body(message["Body"]))
            payload = channel._envelope_payload(channel._prepare_json_payload(text), text, known, source.url)
            properties = payload["properties"]
            headers = payload["headers"] = {**(payload.get("headers") or {})}
            # kombu decodes the body again when it hands it to the consumer, but an error there would have no reason.
            if body := payload.get("body"):
                body = channel.decode_body(body, properties.get("body_encoding"))
            if method := headers.pop("compression", None):
                if not self._accept_compression:
                    return NOT_ACCEPTED
                payload["body"] = decompress(body, method, self._max_decompressed_bytes)
                properties["body_encoding"] = None
        except CannotDecompress as error:
            return error.reason
        except Exception:  # noqa: BLE001 (kombu and an app's JSON decoders may raise anything)
            return NOT_A_MESSAGE
        return payload
