"""kombu's SQS channel, wired to our way of receiving, settling, sending and delaying."""

from __future__ import annotations

import _thread
import threading
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from botocore.config import Config
from botocore.exceptions import ClientError
from celery._state import current_app, get_current_worker_task
from celery.events.event import EVENT_EXCHANGE_NAME
from celery.signals import worker_shutting_down
from kombu.exceptions import OperationalError
from kombu.log import get_logger
from kombu.transport import SQS, virtual
from kombu.transport.SQS.exceptions import DoesNotExistQueueException
from kombu.transport.virtual.base import queue_declare_ok_t
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from kombu.utils.uuid import uuid

from celery_sqs import delays, raw_queues
from celery_sqs.clients import CLIENT_CONFIG, IMPATIENT
from celery_sqs.compression import REFUSED, CannotDecompress, decompress
from celery_sqs.control_queues import ControlQueue, is_for_replies
from celery_sqs.deliveries import get_deliveries, is_final_for_send, make_visible
from celery_sqs.exceptions import (
    ChannelClosed,
    MessageTooLarge,
    PublishDenied,
    PublishRefused,
    SqsUnavailable,
    errors_translated,
)
from celery_sqs.message import NOT_A_MESSAGE, Message
from celery_sqs.monitoring import monitoring_of
from celery_sqs.per_process import one_per_process
from celery_sqs.poller import Poller, Room, pollers_of_process
from celery_sqs.sqs.batches import MAX_MESSAGE_BYTES
from celery_sqs.sqs.dead_letters import Reason, message_bytes
from celery_sqs.sqs.errors import ACCESS_DENIED, NO_SUCH_QUEUE, code_of
from celery_sqs.sqs.queue import Queue, ReceivedMessage, queue_url
from celery_sqs.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.deliveries import Delivery
    from celery_sqs.transport import Transport

logger = get_logger(__name__)


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

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Nothing to do: `Deliveries` keeps what runs, and gives back what does not."""


class Channel(SQS.Channel):
    """SQS channel."""

    QoS = QoS
    Message = Message

    def __init__(self, connection: Transport, **kwargs: Any) -> None:
        self._transport = connection  # kombu clears `connection` when it closes the channel
        self._pollers: dict[str, Poller] = {}
        self._queues: dict[str, Queue] = {}
        self._token_expiries: dict[str, Any] = {}
        self._assuming = threading.Lock()
        pollers_of_process()  # made before what exits before it
        super().__init__(connection, **kwargs)
        self.monitoring = monitoring_of(self)
        _channels.add(self)

    # Queues and clients

    @errors_translated()
    def check_connection(self) -> None:
        """Ask SQS for something cheap: making a channel asks for nothing, so that an unreachable SQS would "connect".

        Raises:
            SqsUnavailable: there is no answer, or SQS throttles.
            ClientError: SQS refuses the credentials.
        """
        try:
            if self.predefined_queues:
                name, queue = next(iter(self.predefined_queues.items()))
                self.sqs(queue=name).get_queue_attributes(QueueUrl=queue["url"], AttributeNames=["QueueArn"])
            else:
                name = next(iter(self._transport.raw_queues), "celery")  # any will do; a policy may allow this one
                self.impatient_client().get_queue_url(QueueName=self.canonical_queue_name(name))
        except ClientError as error:
            if code_of(error) not in NO_SUCH_QUEUE | ACCESS_DENIED:
                raise

    def _update_queue_cache(self, queue_name_prefix: str) -> None:
        """Fill the cache with the predefined queues alone: kombu lists up to 1,000 queues for every channel."""
        if self.predefined_queues:
            super()._update_queue_cache(queue_name_prefix)

    def _resolve_queue_url(self, queue: str) -> str:
        name = self.canonical_queue_name(queue)
        if name not in self._queue_cache and not self.predefined_queues:
            url = queue_url(self.sqs(), name)
            if url is None:
                raise DoesNotExistQueueException(f"Queue with name {name!r} doesn't exist in SQS")
            self._queue_cache[name] = url
        return super()._resolve_queue_url(queue)

    def _new_queue(self, queue: str, **kwargs: Any) -> Any:
        try:
            return super()._new_queue(queue, **kwargs)
        except ClientError as error:
            # A task's publish declares its queue, too.
            if get_current_worker_task() and code_of(error) in ACCESS_DENIED:
                raise _refusal(error, self.canonical_queue_name(queue), self._is_own(queue)) from error
            raise

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        # kombu forgets its URL under the name that it has without the prefix.
        self._queue_cache.pop(self.canonical_queue_name(queue), None)
        self._queues.pop(queue, None)

    def _new_boto_client(self, service: str, *args: Any, config: Config | None = None, **kwargs: Any) -> Any:
        """One client a process for the same arguments: they are thread-safe, and slow to make."""
        ours = Config(**(CLIENT_CONFIG | (self.transport_options.get("client-config") or {})))
        config = ours.merge(config) if config else ours
        if kwargs.get("session_token"):  # STS's, another every quarter of an hour: kombu's channel keeps the last
            return super()._new_boto_client(service, *args, config=config, **kwargs)
        key = (service, args, tuple(sorted(kwargs.items())), self.endpoint_url, repr(vars(config)))
        return one_per_process(key, partial(super()._new_boto_client, service, *args, config=config, **kwargs))

    def impatient_client(self) -> Any:
        """For what is not to hold anybody up."""
        user, password = self.conninfo.userid, self.conninfo.password
        return self._new_boto_client("sqs", self.region, user, password, config=IMPATIENT)

    def _handle_sts_session(self, queue: str, q: dict[str, Any]) -> Any:
        """Each queue has a token of its own, of whose expiries kombu remembers the last."""
        with self._assuming:
            self.sts_expiration = self._token_expiries.get(queue)
            client = super()._handle_sts_session(queue, q)
            self._token_expiries[queue] = self.sts_expiration
            return client

    def _queue(self, queue: str) -> Queue:
        if self.monitoring and (own := self.monitoring.queues.get(queue)):
            return own
        if queue not in self._queues:
            name = self.canonical_queue_name(queue)
            is_own = partial(self._is_own, queue)
            self._queues[queue] = Queue(name, self._new_queue(queue), self._client_of(name), is_own)
        return self._queues[queue]

    def _is_own(self, queue: str) -> bool:
        """Whether the app or this worker lives on what is sent to the queue; raw queues are for others to send to."""
        conf = current_app.conf
        configured = {conf.task_default_queue, *(getattr(known, "name", known) for known in conf.task_queues or ())}
        return queue not in self._transport.raw_queues and queue in configured | _consumed

    def _client_of(self, name: str) -> Callable[[], Any]:
        last = self.sqs(queue=name)

        def client() -> Any:
            nonlocal last
            # A closed channel has lost its options; what is still held is settled by the client it had last.
            last = last if self.closed else self.sqs(queue=name)
            return last

        return client

    # Receiving

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, *args: Any, **kwargs: Any
    ) -> None:
        if no_ack:
            self._noack_queues.add(queue)
        # Not kombu's SQS channel's, which starts its own polling on the hub.
        virtual.Channel.basic_consume(self, queue, no_ack, callback, consumer_tag, *args, **kwargs)
        source = self._queue(queue)
        _consumed.add(queue)
        poller = self._pollers[queue] = Poller(
            queue,
            self.qos.room,
            receive=lambda count, wait: source.receive(
                count, self.wait_time_seconds if wait else 0, self.visibility_timeout
            ),
            accept=lambda messages: self._accept(queue, source, messages),
            give_back=lambda messages: make_visible(source, [message["ReceiptHandle"] for message in messages]),
            priority=(kwargs.get("arguments") or {}).get("x-priority", 0),
        )
        self.qos.room.sharers = len(self._pollers)
        # `celery status` in a worker's container has the worker's options, and must not touch the worker's file.
        if not isinstance(source, ControlQueue):
            self._transport.watch(queue, poller)
        self._transport.start_soon(poller)

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop consuming a queue, and give back what nobody has begun to work on."""
        queue = self._tag_to_queue.get(consumer_tag, "")
        super().basic_cancel(consumer_tag)
        self.stop_receiving(queue)

    def stop_receiving(self, queue: str) -> None:
        poller = self._pollers.pop(queue, None)
        if poller:
            poller.stop()
            self.qos.room.sharers = max(1, len(self._pollers))
            self._transport.forget(queue)
            self._release(self._queue(queue))

    def _release(self, source: Queue, group: str | None = None) -> list[Delivery]:
        held = get_deliveries()
        released = held.release([d for d in held.held() if d.queue is source and group in (None, d.group)])
        for delivery in released:
            self.qos.ack(delivery.tag)  # if the consumer has it already; `deliver` drops what is still in the inbox
        return released

    def give_back(self) -> int:
        """Give back every message on which no work has begun, while the consumer's loop is stalled.

        Returns how many they were. The queues stay consumed.
        """
        sources = [self._queue(queue) for queue in list(self._pollers)]
        return sum(len(self._release(source)) for source in sources if not isinstance(source, ControlQueue))

    def fifo_queues(self) -> list[str]:
        """Those that it consumes."""
        return [queue for queue in list(self._pollers) if self._queue(queue).is_fifo]

    def _accept(self, queue: str, source: Queue, messages: list[ReceivedMessage]) -> None:
        """Hand each message to the consumer, or settle it here where it is not to reach the consumer."""
        waiting: set[str] = set()
        for message in messages:
            if payload := self._admit(queue, source, message, waiting):
                self._transport.inbox.put((self, queue, payload))
            else:
                self.qos.room.give_back(1)
        if queue not in self._pollers:  # it stopped meanwhile: nobody looks into the inbox
            self._release(self._queue(queue))

    def _admit(self, queue: str, source: Queue, message: ReceivedMessage, waiting: set[str]) -> dict[str, Any] | None:
        delivery = get_deliveries().add(source, message, self.visibility_timeout)
        try:
            return self._examine(queue, source, delivery, waiting)
        except Exception as error:  # noqa: BLE001 (no message may end the thread that receives, whatever it holds)
            name = type(error).__name__
            logger.error("the channel raised %s for message %s of %s", name, message["MessageId"], queue)
            delivery.reject(Reason(name, f"the channel raised {name} when it read the message"))
            return None

    def _examine(self, queue: str, source: Queue, delivery: Delivery, waiting: set[str]) -> dict[str, Any] | None:
        """The message for the consumer, or None if it was settled here.

        `waiting` has the message groups of a FIFO queue of which a message of the same receive waits for its time.
        """
        if source.is_fifo and delivery.group in waiting:
            delivery.give_up(after=0)  # SQS hands it out after the one that waits
            return None
        payload = self._to_payload(queue, source, delivery.message)
        if isinstance(payload, Reason):
            delivery.reject(payload)
            return None
        payload["properties"]["delivery_info"]["redelivered"] = _receive_count(delivery.message) > 1
        if isinstance(source, ControlQueue):
            if self.monitoring and source.is_for_commands:
                self.monitoring.events.look_again()
            if not source.is_timely(payload):
                delivery.ack()
                return None
        if delays.is_early(payload["headers"]):
            if source.is_fifo:
                waiting.add(delivery.group)
                delivery.give_up(after=delays.invisible_seconds(payload["headers"]))
            else:
                delivery.delay(delays.delay_seconds(payload["headers"]))
            return None
        return payload

    @errors_translated()
    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """One message, outside of any consumer."""
        message = super().basic_get(queue, no_ack, **kwargs)
        delivery = get_deliveries().get(message.delivery_tag) if message else None
        if delivery and no_ack:
            delivery.ack()
        elif delivery:
            self.qos.room.add()
        return message

    def _get(self, queue: str) -> dict[str, Any]:
        source = self._queue(queue)
        for message in source.receive(1, self.wait_time_seconds, self.visibility_timeout):
            if payload := self._admit(queue, source, message, set()):
                return payload
        raise Empty

    def _to_payload(self, queue: str, source: Queue, message: ReceivedMessage) -> dict[str, Any] | Reason:
        """The message as kombu's virtual transports have it in memory, or why kombu cannot read it."""
        # Without the body: prefork pickles it all for its processes.
        known = {name: value for name, value in message.items() if name != "Body"}
        if task := self._transport.raw_queues.get(queue):
            return self._envelope_payload(raw_queues.to_task_message(message, task), "", known, source.url)
        try:
            text = bytes_to_str(self._decode_python_message_body(message["Body"]))
            payload = self._envelope_payload(self._prepare_json_payload(text), text, known, source.url)
            properties = payload["properties"]
            headers = payload["headers"] = {**(payload.get("headers") or {})}
            # kombu decodes it again when it hands it to the consumer, and an error would name no reason there.
            if body := payload.get("body"):
                body = self.decode_body(body, properties.get("body_encoding"))
            if method := headers.pop("compression", None):
                if not self._transport.accept_compression:
                    return REFUSED
                payload["body"] = decompress(body, method, self._transport.max_decompressed_bytes)
                properties["body_encoding"] = None
        except CannotDecompress as error:
            return error.reason
        except Exception:  # noqa: BLE001 (kombu expects other types in many places, and an app's JSON decoders raise what they like)
            return NOT_A_MESSAGE
        return payload

    @undisturbed
    def deliver(self, queue: str, payload: dict[str, Any]) -> None:
        """Hand a message to the queue's consumer, in the consumer's thread."""
        delivery = get_deliveries().get(payload["properties"]["delivery_tag"])
        if delivery is None:  # the consumer was cancelled since, and the message given back
            self.qos.room.give_back(1)
            return
        delivery.in_inbox = False
        if self._transport.serves_worker:
            delivery.hand_to_worker()
        no_ack = queue in self._noack_queues
        try:
            self.connection._deliver(payload, queue)
        except self.connection.connection_errors:
            raise
        except Exception as error:  # noqa: BLE001 (one message must not stop the consumer, whatever it holds)
            # Celery's consumer trusts what is in a message: one without a task id ends the worker (KeyError).
            name, message_id = type(error).__name__, delivery.message["MessageId"]
            logger.error("the consumer of %s raised %s for message %s", queue, name, message_id)
            delivery.reject(Reason(name, f"the consumer raised {name} when it read the message"))
            self.qos.ack(delivery.tag)
        if no_ack:
            delivery.ack()
            self.qos.room.give_back(1)

    # Events and remote control

    @property
    def supports_fanout(self) -> bool:
        return self.monitoring is not None

    @errors_translated()
    def queue_declare(self, queue: str = "", passive: bool = False, **kwargs: Any) -> Any:
        """Declare a queue; one that goes with its consumer is made where it is bound, since its exchange names it."""
        if self.monitoring and kwargs.get("auto_delete"):
            return queue_declare_ok_t(queue, message_count=0, consumer_count=0)
        return super().queue_declare(queue, passive, **kwargs)

    def queue_bind(self, queue: str, exchange: str = "", routing_key: str = "", *args: Any, **kwargs: Any) -> None:
        if not (self.monitoring and self._is_broadcast_or_reply(exchange)):
            super().queue_bind(queue, exchange, routing_key, *args, **kwargs)
            return
        try:
            with errors_translated():
                self.monitoring.queues.open(queue, exchange, routing_key)
        except (SqsUnavailable, ClientError) as error:
            if not is_for_replies(exchange):
                raise
            # Whoever calls a worker expects this one, as with other transports.
            raise OperationalError(f"cannot make a queue for replies: {error}") from error

    @errors_translated()
    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Delete the queue's messages. Returns how many there were."""
        return int(super().queue_purge(queue, **kwargs))

    @errors_translated()
    def queue_delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        if self.monitoring and self.monitoring.queues.get(queue):
            self.monitoring.queues.close(queue)
        else:
            super().queue_delete(queue, *args, **kwargs)

    def after_reply_message_received(self, queue: str) -> None:
        """Keep the queue for the next call: its name could not be used again for a minute."""

    def basic_publish(self, message: dict[str, Any], exchange: str, routing_key: str, **kwargs: Any) -> None:
        if self.monitoring and exchange == EVENT_EXCHANGE_NAME:
            self.monitoring.events.add(message)
        elif self.monitoring and is_for_replies(exchange):
            self._inplace_augment_message(message, exchange, routing_key)
            self.monitoring.replies.add(exchange, routing_key, self._encode(message))
        else:
            super().basic_publish(message, exchange, routing_key, **kwargs)

    def _put_fanout(self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        if self.monitoring:
            # A queue gets the command again if the answer to the first request was lost.
            message["properties"].setdefault("message_id", uuid())
            self.monitoring.queues.broadcast(exchange, self._encode(message))

    def _is_broadcast_or_reply(self, exchange: str) -> bool:
        known = self.state.exchanges.get(exchange, {"type": ""})
        return exchange == EVENT_EXCHANGE_NAME or known["type"] == "fanout" or is_for_replies(exchange)

    # Settling

    def basic_recover(self, requeue: bool = False) -> None:
        """Let everything that this channel has received and not settled be received again."""
        for tag in list(self.qos._delivered):
            if delivery := get_deliveries().get(tag):
                delivery.give_up(after=0)
            self.qos.ack(tag)

    @undisturbed
    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if delivery := get_deliveries().get(delivery_tag):
            delivery.ack()
        self.qos.ack(delivery_tag)

    @undisturbed
    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Put the message on the queue's dead-letter queue with its reason, or let it be received again."""
        delivery = get_deliveries().get(delivery_tag)
        if delivery is None:
            pass
        elif requeue:
            delivery.give_up(after=_requeue_delay(delivery.message))
        elif self.qos.is_backoff_task(delivery_tag):
            SQS.QoS.reject(self.qos, delivery_tag)  # kombu's backoff policy
            delivery.leave()
        else:
            delivery.reject(self.qos.get(delivery_tag).reject_reason)
        self.qos.ack(delivery_tag)

    @undisturbed
    def release_followers(self, delivery_tag: str) -> None:
        """Give back what has not begun of the message's group on a FIFO queue: SQS hands it out after the message."""
        delivery = get_deliveries().get(delivery_tag)
        if delivery and delivery.queue.is_fifo and not self.closed:
            self._release(delivery.queue, delivery.group)

    # Sending

    @errors_translated()
    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Send a message: because of the task that runs here, or else at once."""
        if self.closed:
            raise ChannelClosed("the channel is closed")  # kombu makes a new one, and tries again
        try:
            target = self._queue(queue)
        except ClientError as error:
            if code_of(error) not in ACCESS_DENIED:
                raise
            raise _refusal(error, self.canonical_queue_name(queue), self._is_own(queue)) from error
        parameters = self._to_parameters(target, message)
        if (size := message_bytes(parameters)) > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(f"the message has {size} bytes with its attributes; SQS takes {MAX_MESSAGE_BYTES}")
        parent = _current_delivery()
        # Two batches of a FIFO queue may overtake each other.
        if parent and not target.is_fifo:
            parent.publish(target, parameters)
        else:
            _send(target, parameters)

    def _to_parameters(self, target: Queue, message: dict[str, Any]) -> dict[str, Any]:
        """What SQS is asked to send, in kombu's terms: message attributes, group, deduplication id and delay."""
        properties = message["properties"]
        parameters: dict[str, Any] = {}
        if attributes := properties.pop("message_attributes", None):
            parameters["MessageAttributes"] = attributes
        if group := properties.get("MessageGroupId", _current_group()):
            parameters["MessageGroupId"] = group
        delay, until_eta = self._resolve_delay_seconds(properties), delays.delay_seconds(message["headers"])
        if target.is_fifo:
            # SQS refuses a DelaySeconds here: whoever receives the message lets it wait for its eta (`_examine`).
            if delay and delay > until_eta:
                message["headers"] = {**message["headers"], "eta": delays.eta_in(delay)}
            parameters.setdefault("MessageGroupId", "default")
            parameters["MessageDeduplicationId"] = (
                properties.get("MessageDeduplicationId") or properties["delivery_tag"]
            )
        elif delay is not None or until_eta:
            parameters["DelaySeconds"] = max(delay or 0, until_eta)
        parameters["MessageBody"] = self._encode(message)
        return parameters

    def _encode(self, message: dict[str, Any]) -> str:
        body = dumps(message)
        return SQS.AsyncMessage().encode(body) if self.sqs_base64_encoding else body


_channels: WeakSet[Channel] = WeakSet()

_consumed: set[str] = set()  # the names of the queues that this process has consumed


@worker_shutting_down.connect
def stop_receiving(**_: Any) -> None:
    """Give back what nobody has begun as soon as the signal comes: the consumer may be waiting for a busy pool.

    In a thread, since a signal's handler must not wait, and a bare one, since `Thread.start` waits (gevent runs the
    handler in its hub).
    """

    def stop() -> None:
        for channel in list(_channels):
            for queue in list(channel._pollers):
                channel.stop_receiving(queue)
            # The event loop looks whether it is to stop when it wakes, which may be the next heartbeat.
            channel._transport.inbox.wake(always=True)

    _thread.start_new_thread(stop, ())


def _current_delivery() -> Delivery | None:
    """What this process holds of the task that runs in this thread; none where it was acknowledged before it ran."""
    delivery = get_deliveries().get(_current_properties().get("delivery_tag", ""))
    return delivery if delivery and delivery.is_open else None


def _current_group() -> str | None:
    """The message group of the task that runs in this thread, also where another process holds its message."""
    message = _current_properties().get("delivery_info", {}).get("sqs_message", {})
    group: str | None = message.get("Attributes", {}).get("MessageGroupId")
    return group


def _current_properties() -> dict[str, Any]:
    """Of the message whose task runs in this thread, and not of a task that it calls as a function."""
    task = get_current_worker_task()
    return (task.request.properties if task else None) or {}


def _send(target: Queue, parameters: dict[str, Any]) -> None:
    try:
        target.send(parameters)
    except ClientError as error:
        code = code_of(error)
        if code in ACCESS_DENIED or is_final_for_send(target, code):
            raise _refusal(error, target.name, target.is_own()) from error
        raise


def _refusal(error: ClientError, queue: str, is_own: bool) -> PublishDenied | PublishRefused:
    """What a publish raises at once: kombu would try again what it knows for an error of the connection."""
    code = code_of(error)
    if code in ACCESS_DENIED and is_own:
        return PublishDenied(queue, code)
    return PublishRefused(f"SQS refuses the message for queue {queue}: {code}")


def _requeue_delay(message: ReceivedMessage) -> int:
    """Seconds: none the first time, as with other transports, and from then on twice as many each time.

    What fails at once again would otherwise use up the queue's redrive policy in a moment.
    """
    received = _receive_count(message)
    return int(min(2 ** (received - 1), delays.MAX_DELAY_SECONDS)) if received > 1 else 0


def _receive_count(message: ReceivedMessage) -> int:
    return int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
