"""Receives for a channel: it has a poller for each consumed queue, and gives back messages that have not begun."""

from __future__ import annotations

import _thread
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery.signals import worker_shutting_down
from kombu.log import get_logger

from celery_sqs.control_queues import ControlQueue
from celery_sqs.hand_off import ConsumedQueue
from celery_sqs.held_message import State
from celery_sqs.held_messages import held_messages
from celery_sqs.poller import Poller, paused_queues
from celery_sqs.signals import uninterrupted
from celery_sqs.sqs.dead_letters import Reason
from celery_sqs.visibility import make_visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kombu.transport import SQS

    from celery_sqs.admission import Admission
    from celery_sqs.consumer_loop import ConsumerLoop
    from celery_sqs.held_message import HeldMessage
    from celery_sqs.prefetch import Prefetch
    from celery_sqs.sqs.queue import Queue, ReceivedMessage

logger = get_logger(__name__)

# How many handed-off messages may wait to begin if the prefetch has no limit.
MAX_WAITING = 100


class Receiver:
    """Receives from the queues that a channel consumes, and delivers their messages to the consumer."""

    def __init__(self, channel: SQS.Channel, loop: ConsumerLoop, admission: Admission) -> None:
        self._channel = channel
        self._loop = loop
        self._admission = admission
        self._sources: dict[str, Queue] = {}
        self._pollers: dict[str, Poller] = {}
        _receivers.add(self)

    @property
    def prefetch(self) -> Prefetch:
        prefetch: Prefetch = self._channel.qos.prefetch
        return prefetch

    @property
    def sources(self) -> list[Queue]:
        """The queues that the channel consumes, without control queues."""
        return [source for source in list(self._sources.values()) if not isinstance(source, ControlQueue)]

    def consume(self, queue: str, source: Queue, priority: int) -> None:
        channel = self._channel
        wait_seconds, visibility_timeout = channel.wait_time_seconds, channel.visibility_timeout
        self._sources[queue] = source
        _consumers[source.url] = self
        poller = self._pollers[queue] = Poller(
            queue,
            self.prefetch,
            receive=lambda count, wait: source.receive(count, wait_seconds if wait else 0, visibility_timeout),
            accept=partial(self._accept, queue, source),
            give_back=lambda messages: make_visible(source, [message["ReceiptHandle"] for message in messages]),
            priority=priority,
            is_shared=not isinstance(source, ControlQueue),
        )
        self.prefetch.sharers = len(self._pollers)
        # Control queues are not watched: `celery status` in a worker's container has the worker's options, and must not
        # overwrite the worker's liveness file.
        if not isinstance(source, ControlQueue):
            self._loop.watch(poller)
        self._loop.start_soon(poller)

    def stop(self, queue: str) -> None:
        """Stop consuming the queue, and give back its messages on which no work has begun."""
        poller = self._pollers.pop(queue, None)
        if poller:
            poller.stop()
            self.prefetch.sharers = max(1, len(self._pollers))
            self._loop.forget(queue)
            source = self._sources.pop(queue)
            if _consumers.get(source.url) is self:
                del _consumers[source.url]
            self.release(source)

    def stop_all(self) -> None:
        for queue in list(self._pollers):
            self.stop(queue)
        # The event loop checks only when it wakes whether it should stop. Without this, that may be the next heartbeat.
        self._loop.inbox.wake(always=True)

    def release(self, source: Queue, group: str | None = None) -> list[HeldMessage]:
        """Give back the messages of the queue, or of one of its message groups, on which no work has begun.

        Return them.
        """
        held = held_messages()
        released = held.release([m for m in held.held() if m.queue is source and group in (None, m.group)])
        for message in released:
            # This is for messages that the consumer already has. `_deliver` drops those still in the inbox.
            self._channel.qos.ack(message.tag)
        return released

    def release_all(self) -> int:
        """Give back every message on which no work has begun, because the consumer's loop is stalled.

        Return how many there were. The pollers keep running.
        """
        return sum(len(self.release(source)) for source in self.sources)

    def release_paused(self) -> int:
        """Give back the messages of paused queues on which no work has begun. Return how many there were.

        Messages that running tasks have handed off stay, so that what has begun is finished.
        """
        held = held_messages()
        sources = [source for name, source in list(self._sources.items()) if name in paused_queues]
        released = held.release([m for m in held.received() if m.queue in sources])
        for message in released:
            self._channel.qos.ack(message.tag)
        return len(released)

    def consumed(self, url: str) -> ConsumedQueue | None:
        """Return the queue with this URL if Celery's worker consumes it through this channel."""
        for name, source in list(self._sources.items()):
            poller = self._pollers.get(name)
            if poller and source.url == url and self._loop.serves_worker and not isinstance(source, ControlQueue):
                is_raw = name in self._admission.raw_queues
                has_backoff_policy = "backoff_policy" in self._channel.predefined_queues.get(source.name, {})
                has_room = held_messages().has_room(self.prefetch.limit or MAX_WAITING)
                return ConsumedQueue(name, source, is_raw, has_backoff_policy, poller.priority, has_room)
        return None

    def hand_off(self, to: ConsumedQueue, parent: HeldMessage, parameters: dict[str, Any], task_id: str) -> None:
        """Deliver a message that a task of this worker publishes, without SQS.

        It takes a place in the prefetch even if that is full, because its parent gives its own place up when its task
        ends.
        """
        held = held_messages().hand_off(to.queue, parent, parameters, task_id)
        self.prefetch.add()
        self._take_in(to.name, to.queue, [held])

    def _accept(self, queue: str, source: Queue, messages: list[ReceivedMessage]) -> None:
        self._take_in(queue, source, self._admission.hold(source, messages))

    def _take_in(self, queue: str, source: Queue, messages: list[HeldMessage]) -> None:
        """Put each message into the consumer's inbox, unless `admit` has settled it."""
        waiting: set[str] = set()
        for held in messages:
            if payload := self._admission.admit(queue, held, waiting):
                self._loop.inbox.put(partial(self._deliver, queue, payload))
            else:
                self.prefetch.free(1)
        if queue not in self._pollers:  # the poller was stopped meanwhile, so nobody reads the inbox
            self.release(source)

    @uninterrupted
    def _deliver(self, queue: str, payload: dict[str, Any]) -> None:
        """Hand a message to the queue's consumer, in the consumer's thread."""
        held = held_messages().get(payload["properties"]["delivery_tag"])
        if held is None:  # the message was given back meanwhile, because the consumer was cancelled
            self.prefetch.free(1)
            return
        if self._loop.serves_worker:
            held.hand_over()
        else:
            held.wait_for_start()
        channel = self._channel
        no_ack = queue in channel._noack_queues
        try:
            channel.connection._deliver(payload, queue)
        except channel.connection.connection_errors:
            raise
        except Exception as error:  # noqa: BLE001 (one message must not stop the consumer, whatever it contains)
            # Celery's consumer trusts a message's content. Without a task id, its KeyError would end the worker.
            name = type(error).__name__
            logger.error("the consumer of %s raised %s for message %s", queue, name, held.id)
            held.reject(Reason(name, f"the consumer raised {name} when it read the message"))
            channel.qos.ack(held.tag)
        if no_ack:
            held.ack()
            self.prefetch.free(1)
        if held.state is State.RELEASED:  # it was released during the delivery
            channel.qos.ack(held.tag)


_receivers: WeakSet[Receiver] = WeakSet()
_consumers: dict[str, Receiver] = {}  # by the URL of a queue


def consumer_of(url: str) -> Receiver | None:
    """Return the receiver of this process that consumes the queue with this URL."""
    return _consumers.get(url)


def pause_queues(names: Iterable[str]) -> int:
    """Receive from these queues no more, and from all others again. Return how many messages were given back.

    Messages on which no work has begun are given back. Call this again while the pause lasts: a receive that ended just
    before the pause may have brought messages since.
    """
    paused_queues.set(names)
    return sum(receiver.release_paused() for receiver in list(_receivers))


@worker_shutting_down.connect
def stop_receiving(**_: Any) -> None:
    """Stop receiving, and give back messages that have not begun, as soon as a signal asks the worker to stop.

    The consumer itself may be waiting for a busy pool. This runs in a thread, because a signal handler must not block.
    It uses `_thread`, because `Thread.start` blocks, and gevent runs the handler in its hub.
    """

    def stop() -> None:
        for receiver in list(_receivers):
            receiver.stop_all()

    _thread.start_new_thread(stop, ())


def warn_of_fifo_concurrency(consumer: Any) -> None:
    """Warn if the worker of this consumer runs several tasks of a FIFO queue at the same time.

    One receive may return several messages of a message group, and all of them go to the pool.
    """
    receiver: Receiver = consumer.task_consumer.channel.receiver
    # `max_concurrency` is set with --autoscale.
    concurrency = max(consumer.pool.num_processes, consumer.controller.max_concurrency or 0)
    if concurrency > 1 and (queues := [queue for queue, source in list(receiver._sources.items()) if source.is_fifo]):
        logger.warning(
            "%s: with a concurrency of %d, tasks of one message group run in parallel and may end in another order; "
            "consume a FIFO queue with --concurrency 1",
            ", ".join(queues),
            concurrency,
        )
