"""The kombu transport: kombu's own SQS channel, with our way of receiving, settling and delaying."""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import ClientError
from kombu.log import get_logger
from kombu.transport import SQS, virtual
from kombu.transport.SQS.exceptions import DoesNotExistQueueException

from celery_sqs import delays, raw_queues
from celery_sqs.dead_letters import Reason
from celery_sqs.inbox import Inbox
from celery_sqs.poller import Poller, Room
from celery_sqs.queue import NO_SUCH_QUEUE, Queue, ReceivedMessage

logger = get_logger(__name__)

REJECTED = Reason("Rejected", "the worker rejected the message: its log has the message id and the cause")
NOT_A_MESSAGE = Reason("NotAMessage", "the body is no message of kombu's")


class QoS(SQS.QoS):
    """Counts what the consumer holds in `room`, which the pollers wait on."""

    def __init__(self, channel: Channel, prefetch_count: int = 0) -> None:
        self.room = Room()
        super().__init__(channel, prefetch_count)

    @property
    def prefetch_count(self) -> int:
        return self.room.limit

    @prefetch_count.setter
    def prefetch_count(self, count: int) -> None:
        self.room.limit = count

    def ack(self, delivery_tag: str) -> None:
        if delivery_tag in self._delivered and delivery_tag not in self._dirty:
            super().ack(delivery_tag)
            self.room.give_back(1)


class Message(virtual.Message):
    """A message that knows, once rejected, why."""

    reject_reason: Reason = REJECTED


class Channel(SQS.Channel):
    """SQS channel."""

    QoS = QoS
    Message = Message

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        self._pollers: dict[str, Poller] = {}
        super().__init__(connection, **kwargs)

    # Queues

    def _update_queue_cache(self, queue_name_prefix: str) -> None:
        """Fill the cache with the predefined queues alone: kombu lists up to 1,000 queues for every channel."""
        if self.predefined_queues:
            super()._update_queue_cache(queue_name_prefix)

    def _resolve_queue_url(self, queue: str) -> str:
        name = self.canonical_queue_name(queue)
        if name not in self._queue_cache and not self.predefined_queues:
            try:
                self._queue_cache[name] = self.sqs().get_queue_url(QueueName=name)["QueueUrl"]
            except ClientError as error:
                if error.response["Error"]["Code"] not in NO_SUCH_QUEUE:
                    raise
                raise DoesNotExistQueueException(f"Queue with name {name!r} doesn't exist in SQS") from None
        return super()._resolve_queue_url(queue)

    # Receiving

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, *args: Any, **kwargs: Any
    ) -> None:
        self._subscribe_queue_to_fanout_exchange_if_required(queue)
        if no_ack:
            self._noack_queues.add(queue)
        # Not kombu's SQS channel's, which starts its own polling on the hub.
        virtual.Channel.basic_consume(self, queue, no_ack, callback, consumer_tag, *args, **kwargs)
        name = self.canonical_queue_name(queue)
        source = Queue(name, self._new_queue(queue), client=lambda: self.sqs(queue=name))
        self._pollers[queue] = Poller(
            queue,
            self.qos.room,
            receive=lambda count: source.receive(count, self.wait_time_seconds),
            deliver=lambda messages: self._accept(queue, source, messages),
            release=lambda messages: _release(source, messages),
        )
        self._pollers[queue].start()

    def basic_cancel(self, consumer_tag: str) -> None:
        if poller := self._pollers.pop(self._tag_to_queue.get(consumer_tag, ""), None):
            poller.stop()
        super().basic_cancel(consumer_tag)

    def close(self) -> None:
        if not self.closed:
            self.qos.room.close()
        super().close()

    def _accept(self, queue: str, source: Queue, messages: list[ReceivedMessage]) -> None:
        """Hand each message to the consumer, or settle it here where it is not to reach the consumer."""
        for message in messages:
            payload = self._to_payload(queue, message)
            if payload is None:
                source.dead_letter(message, NOT_A_MESSAGE)
            elif delays.is_early(payload["headers"]):
                source.delay(message, delays.delay_seconds(payload["headers"]))
            else:
                payload["headers"].pop("eta", None)  # it is due: Celery's worker would set a timer for it
                payload["properties"]["delivery_tag"] = message["ReceiptHandle"]
                payload["properties"]["delivery_info"] |= {"sqs_message": message, "sqs_queue": source}
                self.connection.inbox.put((self, queue, payload))
                continue
            self.qos.room.give_back(1)

    def _to_payload(self, queue: str, message: ReceivedMessage) -> dict[str, Any] | None:
        """The message as kombu's virtual transports have it, or None where its body is none of kombu's."""
        if task := (self.transport_options.get("raw_queues") or {}).get(queue):
            return raw_queues.to_task_message(message, task)
        try:
            payload: dict[str, Any] = json.loads(self._decode_python_message_body(message["Body"]))
            properties, headers = payload["properties"], payload["headers"]
            body = self.decode_body(payload["body"], properties.get("body_encoding"))
            if not isinstance(headers, dict) or not isinstance(properties["delivery_info"], dict):
                return None
            if payload.get("content-type") == "application/json":
                json.loads(body)  # Celery acknowledges what it cannot decode
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None
        return payload

    def deliver(self, queue: str, payload: dict[str, Any]) -> None:
        """Hand a message to the queue's consumer, in the consumer's thread."""
        tag, info = payload["properties"]["delivery_tag"], payload["properties"]["delivery_info"]
        try:
            if queue in self._pollers:
                self.connection._deliver(payload, queue)
            else:  # cancelled since
                self.qos.room.give_back(1)
                info["sqs_queue"].make_visible(info["sqs_message"])
        except self.connection.connection_errors:
            raise
        except Exception as error:  # noqa: BLE001 (one message must not stop the consumer, whatever it holds)
            # Celery's consumer trusts what is in a message: one without a task id ends the worker (KeyError).
            name = type(error).__name__
            logger.error("the consumer of %s raised %s for message %s", queue, name, info["sqs_message"]["MessageId"])
            reason = Reason(name, f"the consumer raised {name} when it read the message")
            info["sqs_queue"].dead_letter(info["sqs_message"], reason)
            self.qos.ack(tag)

    # Settling

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        info = self.qos.get(delivery_tag).delivery_info
        try:
            info["sqs_queue"].delete(info["sqs_message"])
        finally:
            # Whatever SQS answered: a slot held for ever would park the poller. What is not deleted comes back.
            self.qos.ack(delivery_tag)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put the message on the queue's dead-letter queue with its reason, or leave it to be received again."""
        message = self.qos.get(delivery_tag)
        queue, sqs_message = message.delivery_info["sqs_queue"], message.delivery_info["sqs_message"]
        try:
            if requeue:
                queue.make_visible(sqs_message, after=_requeue_delay(sqs_message))
            elif self.qos.is_backoff_task(delivery_tag):
                SQS.QoS.reject(self.qos, delivery_tag)  # kombu's backoff policy
            else:
                queue.dead_letter(sqs_message, message.reject_reason)
        finally:
            self.qos.ack(delivery_tag)

    def _restore(self, message: virtual.Message) -> None:
        """Make a message that nobody worked on visible again at once."""
        message.delivery_info["sqs_queue"].make_visible(message.delivery_info["sqs_message"])

    # Sending

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        if delay := delays.delay_seconds(message["headers"]):
            message["properties"]["DelaySeconds"] = delay
        super()._put(queue, message, **kwargs)


class Transport(SQS.Transport):
    """Set it as `broker_transport` beside a `broker_url` of `sqs://`; its options are kombu's, and `raw_queues`."""

    Channel = Channel

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.inbox = Inbox()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Called for every new connection: a lost one leaves the hub empty (kombu's `Hub.reset`)."""
        loop.add_reader(self.inbox, self._on_readable)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        delivery = self.inbox.get(timeout)
        if delivery is None:
            raise TimeoutError
        channel, *message = delivery
        channel.deliver(*message)

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        while delivery := self.inbox.get(timeout=0):  # its consumer is gone: back to the queue
            channel, *message = delivery
            channel.deliver(*message)
        self.inbox.close()

    def close_channel(self, channel: Any) -> None:
        super().close_channel(channel)
        # kombu clears it, but a poller whose last receive is still under way has to give back what that brings.
        channel.connection = self

    def _on_readable(self) -> None:
        self.inbox.drain_wakeups()
        try:
            while delivery := self.inbox.get(timeout=0):
                channel, *message = delivery
                channel.deliver(*message)
        finally:
            self.inbox.wake()


def _release(queue: Queue, messages: list[ReceivedMessage]) -> None:
    for message in messages:
        queue.make_visible(message)


def _requeue_delay(message: ReceivedMessage) -> int:
    """Seconds: what fails at once again would otherwise use up the queue's redrive policy in a moment."""
    received = int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
    return int(min(2**received, delays.MAX_DELAY_SECONDS))
