"""Our version of kombu's SQS channel. Its methods pass the work on to the modules that do it."""

from __future__ import annotations

import threading
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any

from amqp.protocol import queue_declare_ok_t
from botocore.config import Config
from botocore.exceptions import ClientError
from celery._state import current_app, get_current_worker_task
from celery.events.event import EVENT_EXCHANGE_NAME
from kombu.transport import SQS, virtual
from kombu.transport.SQS.exceptions import DoesNotExistQueueException
from kombu.utils.json import dumps
from kombu.utils.uuid import uuid

from celery_sqs.admission import Admission, Message
from celery_sqs.clients import CLIENT_CONFIG, SHORT_TIMEOUTS
from celery_sqs.control_queues import is_for_replies
from celery_sqs.exceptions import ChannelClosed, errors_translated
from celery_sqs.held_messages import held_messages
from celery_sqs.monitoring import monitoring_of
from celery_sqs.per_process import one_per_process
from celery_sqs.poller import pollers_of_process
from celery_sqs.prefetch import QoS
from celery_sqs.publishing import DeliveryTags, publish, publish_error, to_parameters
from celery_sqs.receiving import Receiver
from celery_sqs.signals import uninterrupted
from celery_sqs.sqs.errors import ACCESS_DENIED, NO_SUCH_QUEUE, code_of
from celery_sqs.sqs.queue import Queue, queue_url

if TYPE_CHECKING:
    from collections.abc import Callable


class Channel(SQS.Channel):
    """kombu's SQS channel with pollers, batches and remote control."""

    QoS = QoS
    Message = Message

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._queues: dict[str, Queue] = {}
        self._token_expiries: dict[str, Any] = {}
        self._assuming = threading.Lock()
        super().__init__(connection, **kwargs)
        pollers_of_process()  # it is made first, so that its exit function runs last
        self.monitoring = monitoring_of(self, self.short_timeout_client)
        self._may_hand_off = self.transport_options.get("hand_off", True)
        self._admission = Admission(self, self.monitoring)
        self.receiver = Receiver(self, connection.consumer_loop, self._admission)

    # Queues and clients

    @errors_translated()
    def check_connection(self) -> None:
        """Make one cheap request to SQS.

        Making a channel makes no request, so without this kombu would "connect" even if SQS cannot be reached.

        Raises:
            SqsUnavailable: SQS does not answer, or it throttles.
            ClientError: SQS refuses the credentials.
        """
        try:
            if self.predefined_queues:
                name, queue = next(iter(self.predefined_queues.items()))
                self.sqs(queue=name).get_queue_attributes(QueueUrl=queue["url"], AttributeNames=["QueueArn"])
            else:
                # Any queue name will do, but an IAM policy is most likely to allow a configured one.
                name = next(iter(self._admission.raw_queues), "celery")
                self.short_timeout_client().get_queue_url(QueueName=self.canonical_queue_name(name))
        except ClientError as error:
            if code_of(error) not in NO_SUCH_QUEUE | ACCESS_DENIED:
                raise

    def _update_queue_cache(self, queue_name_prefix: str) -> None:
        """Fill the cache with predefined queues only. kombu would list up to 1,000 queues for every channel."""
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
            # A publish by a task also declares the queue.
            if get_current_worker_task() and code_of(error) in ACCESS_DENIED:
                raise publish_error(error, self.canonical_queue_name(queue), self._is_own(queue)) from error
            raise

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        # kombu caches the URL under the name with the prefix, but removes it under the name without.
        self._queue_cache.pop(self.canonical_queue_name(queue), None)
        self._queues.pop(queue, None)

    def _new_boto_client(self, service: str, *args: Any, config: Config | None = None, **kwargs: Any) -> Any:
        """Return the process's client for these arguments. We share clients: they are thread-safe and slow to make."""
        ours = Config(**(CLIENT_CONFIG | (self.transport_options.get("client-config") or {})))
        config = ours.merge(config) if config else ours
        # STS issues a new token every 15 minutes, and kombu's channel keeps the newest client, so we do not keep it.
        if kwargs.get("session_token"):
            return super()._new_boto_client(service, *args, config=config, **kwargs)
        key = (service, args, tuple(sorted(kwargs.items())), self.endpoint_url, repr(vars(config)))
        return one_per_process(key, partial(super()._new_boto_client, service, *args, config=config, **kwargs))

    def short_timeout_client(self) -> Any:
        """Return a client with short time-outs, for requests that must not block anything else."""
        user, password = self.conninfo.userid, self.conninfo.password
        return self._new_boto_client("sqs", self.region, user, password, config=Config(**SHORT_TIMEOUTS))

    def _handle_sts_session(self, queue: str, q: dict[str, Any]) -> Any:
        """Return the queue's client. Each queue has its own token, but kombu remembers only one expiry."""
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
        """Whether the queue belongs to the app or is consumed by this process.

        Raw queues do not count, because other programs send to them.
        """
        conf = current_app.conf
        configured = {conf.task_default_queue, *(getattr(known, "name", known) for known in conf.task_queues or ())}
        return queue not in self._admission.raw_queues and queue in configured | _consumed

    def _client_of(self, name: str) -> Callable[[], Any]:
        last = self.sqs(queue=name)

        def client() -> Any:
            nonlocal last
            # A closed channel has lost its options, so the messages it still holds are settled with its last client.
            last = last if self.closed else self.sqs(queue=name)
            return last

        return client

    # Receiving

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, *args: Any, **kwargs: Any
    ) -> None:
        if no_ack:
            self._noack_queues.add(queue)
        # The method of kombu's SQS channel is skipped, because it starts its own polling on the hub.
        virtual.Channel.basic_consume(self, queue, no_ack, callback, consumer_tag, *args, **kwargs)
        source = self._queue(queue)
        _consumed.add(queue)
        self.receiver.consume(queue, source, (kwargs.get("arguments") or {}).get("x-priority", 0))

    def basic_cancel(self, consumer_tag: str) -> None:
        """Stop consuming a queue, and give back its messages on which no work has begun."""
        queue = self._tag_to_queue.get(consumer_tag, "")
        super().basic_cancel(consumer_tag)
        self.receiver.stop(queue)

    @errors_translated()
    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Return one message of the queue without a consumer, or None if there is none."""
        message = super().basic_get(queue, no_ack, **kwargs)
        held = held_messages().get(message.delivery_tag) if message else None
        if held and no_ack:
            held.ack()
        elif held:
            self.receiver.prefetch.add()
        return message

    def _get(self, queue: str) -> dict[str, Any]:
        source = self._queue(queue)
        messages = source.receive(1, self.wait_time_seconds, self.visibility_timeout)
        for held in self._admission.hold(source, messages):
            if payload := self._admission.admit(queue, held, set()):
                return payload
        raise Empty

    # Events and remote control

    @property
    def supports_fanout(self) -> bool:
        return self.monitoring is not None

    @errors_translated()
    def queue_declare(self, queue: str = "", passive: bool = False, **kwargs: Any) -> Any:
        """Declare a queue.

        A queue with `auto_delete` is made only when it is bound, because it is named after its exchange.
        """
        if self.monitoring and kwargs.get("auto_delete"):
            return queue_declare_ok_t(queue, message_count=0, consumer_count=0)
        return super().queue_declare(queue, passive, **kwargs)

    def queue_bind(self, queue: str, exchange: str = "", routing_key: str = "", *args: Any, **kwargs: Any) -> None:
        kind = self.state.exchanges.get(exchange, {"type": ""})["type"]
        if self.monitoring and (exchange == EVENT_EXCHANGE_NAME or kind == "fanout" or is_for_replies(exchange)):
            self.monitoring.bind(queue, exchange, routing_key)
        else:
            super().queue_bind(queue, exchange, routing_key, *args, **kwargs)

    @errors_translated()
    def queue_purge(self, queue: str, **kwargs: Any) -> int:
        """Delete the queue's messages. Return how many there were."""
        return int(super().queue_purge(queue, **kwargs))

    @errors_translated()
    def queue_delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        if self.monitoring and self.monitoring.queues.get(queue):
            self.monitoring.queues.close(queue)
        else:
            super().queue_delete(queue, *args, **kwargs)

    def after_reply_message_received(self, queue: str) -> None:
        """Keep the reply queue for the next call. SQS does not allow a deleted queue's name for a minute."""

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
            # The id lets the receiver recognize a duplicate, which is sent if the answer to the first request was lost.
            message["properties"].setdefault("message_id", uuid())
            self.monitoring.queues.broadcast(exchange, self._encode(message))

    # Settling

    def basic_recover(self, requeue: bool = False) -> None:
        """Give back every message that this channel has received and not settled, so that it is received again."""
        for tag in list(self.qos._delivered):
            if held := held_messages().get(tag):
                held.give_back(after=0)
            self.qos.ack(tag)

    @uninterrupted
    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        if held := held_messages().get(delivery_tag):
            held.ack()
        self.qos.ack(delivery_tag)

    @uninterrupted
    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Move the message to the queue's dead-letter queue with its reason, or give it back if `requeue` is true."""
        held = held_messages().get(delivery_tag)
        if held is None:
            pass
        elif requeue:
            held.requeue()
        elif self.qos.is_backoff_task(delivery_tag):
            SQS.QoS.reject(self.qos, delivery_tag)  # kombu's backoff policy
            held.leave()
        else:
            held.reject(self.qos.get(delivery_tag).reject_reason)
        self.qos.ack(delivery_tag)

    @uninterrupted
    def release_followers(self, delivery_tag: str) -> None:
        """Give back the messages of the same message group on which no work has begun, if the queue is FIFO.

        SQS then delivers them after this message.
        """
        held = held_messages().get(delivery_tag)
        if held and held.queue.is_fifo and not self.closed:
            self.receiver.release(held.queue, held.group)

    # Sending

    @errors_translated()
    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Send a message, as part of the task that runs in this thread if there is one, or else at once."""
        if self.closed:
            raise ChannelClosed("the channel is closed")  # kombu makes a new channel and retries
        try:
            target = self._queue(queue)
        except ClientError as error:
            if code_of(error) not in ACCESS_DENIED:
                raise
            raise publish_error(error, self.canonical_queue_name(queue), self._is_own(queue)) from error
        delay = self._resolve_delay_seconds(message["properties"])
        parameters = to_parameters(target, message, delay, self._encode)
        publish(target, parameters, message["headers"], may_hand_off=self._may_hand_off)

    def _next_delivery_tag(self) -> str:
        return one_per_process(DeliveryTags, DeliveryTags).new()

    def _encode(self, message: dict[str, Any]) -> str:
        body = dumps(message)
        return SQS.AsyncMessage().encode(body) if self.sqs_base64_encoding else body


_consumed: set[str] = set()  # the names of the queues that this process, or its parent, has consumed
