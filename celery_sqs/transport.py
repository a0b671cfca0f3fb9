"""The kombu transport."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError
from kombu.transport import SQS

from celery_sqs.channel import Channel
from celery_sqs.compression import MAX_DECOMPRESSED_BYTES
from celery_sqs.exceptions import ChannelClosed, SqsUnavailable
from celery_sqs.inbox import Inbox
from celery_sqs.liveness import LivenessFile
from celery_sqs.patches.celery import install

if TYPE_CHECKING:
    from celery_sqs.poller import Poller

CONTROL_QUEUE_PREFIX = "celery-control-"
BEAT_EVERY_SECONDS = 5


class Transport(SQS.Transport):
    """Set it as `broker_transport` beside a `broker_url` of `sqs://`.

    Its options are kombu's and those of docs/celery_sqs.md.
    """

    Channel = Channel

    # A worker that meets one of these connects again (celery.worker.consumer). ClientError is among them, so that a
    # worker waits, and logs, until a person has fixed a policy or made a queue.
    connection_errors = (*SQS.Transport.connection_errors, ClientError)

    # For these kombu repeats a publish or a declaration as often as `max_retries` says (Connection.ensure): three times
    # for a task (task_publish_retry_policy), and without end for a command or a reply of remote control, which is why
    # neither of the two raises one of them (ControlQueues.broadcast, ReplySender). After the last try kombu raises
    # OperationalError, for which `Request` keeps the message of the task that published.
    recoverable_connection_errors = (
        ChannelClosed,  # the consumer has closed the channel, and kombu makes another
        SqsUnavailable,  # SQS cannot be reached, throttles, or answers 5xx
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.inbox = Inbox()
        self.raw_queues: dict[str, str] = client.transport_options.get("raw_queues") or {}
        self.accept_compression: bool = client.transport_options.get("accept_compression", True)
        self.max_decompressed_bytes: int = client.transport_options.get(
            "max_decompressed_bytes", MAX_DECOMPRESSED_BYTES
        )
        self._liveness_path = client.transport_options.get("liveness_file")
        self._liveness: LivenessFile | None = None
        self._to_start: deque[Poller] = deque()
        self.beats = 0  # how often the consumer's loop came round, for Watchdog
        self.serves_worker = False  # Celery's worker consumes by it
        self.stalled = ""  # what Watchdog finds wrong with the consumer
        self.control_queue_prefix = client.transport_options.get("control_queue_prefix", CONTROL_QUEUE_PREFIX)
        if self.control_queue_prefix:
            self.implements = self.implements.extend(exchange_type=frozenset({"direct", "topic", "fanout"}))

    def establish_connection(self) -> Any:
        """Connect, which for SQS is one cheap request.

        Raises:
            SqsUnavailable: so that kombu tries the next URL of several, and a health check sees it.
        """
        connection = super().establish_connection()
        self._avail_channels[-1].check_connection()
        return connection

    def watch(self, queue: str, poller: Poller) -> None:
        """Say in the file of the option `liveness_file`, if there is one, that this process receives from the queue."""
        if self._liveness_path and self._liveness is None:
            self._liveness = LivenessFile(self._liveness_path, lambda: self.stalled)
        if self._liveness:
            self._liveness.watch(queue, poller)

    def forget(self, queue: str) -> None:
        """Say no more of the queue."""
        if self._liveness:
            self._liveness.forget(queue)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Called for every new connection: a lost one leaves the hub empty (kombu's `Hub.reset`)."""
        loop.add_reader(self.inbox, self._on_readable)
        self.inbox.wake(always=True)  # a consumer may have begun before
        loop.call_repeatedly(BEAT_EVERY_SECONDS, self.beat)

    def beat(self) -> None:
        """The consumer's loop is running."""
        self.beats += 1

    def start_soon(self, poller: Poller) -> None:
        """Start the poller when the consumer's loop comes round.

        Every queue is known then, so that the first one does not take the room of the others.
        """
        self._to_start.append(poller)
        self.inbox.wake(always=True)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        self.beat()  # a worker without an event loop comes here every two seconds (celery.worker.loops.synloop)
        self._start_pollers()
        delivery = self.inbox.get(timeout)
        if delivery is None:
            raise TimeoutError
        channel, *message = delivery
        channel.deliver(*message)

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        self.inbox.close()
        if self._liveness:
            self._liveness.end()

    def _start_pollers(self) -> None:
        while self._to_start:
            self._to_start.popleft().start()

    def _on_readable(self) -> None:
        self._start_pollers()
        self.inbox.drain_wakeups()
        try:
            while delivery := self.inbox.get(timeout=0):
                channel, *message = delivery
                channel.deliver(*message)
        finally:
            self.inbox.wake()


install(Transport)
