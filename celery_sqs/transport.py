"""The kombu transport."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError
from kombu.transport import SQS

from celery_sqs.channel import Channel
from celery_sqs.consumer_loop import ConsumerLoop
from celery_sqs.exceptions import ChannelClosed, SqsUnavailable
from celery_sqs.monitoring import control_queue_prefix
from celery_sqs.patches.celery import install

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
        self.consumer_loop = ConsumerLoop(client.transport_options.get("liveness_file"))
        if control_queue_prefix(client.transport_options):
            self.implements = self.implements.extend(exchange_type=frozenset({"direct", "topic", "fanout"}))

    def establish_connection(self) -> Any:
        """Connect, which for SQS is one cheap request.

        Raises:
            SqsUnavailable: so that kombu tries the next URL of several, and a health check sees it.
        """
        connection = super().establish_connection()
        self._avail_channels[-1].check_connection()
        return connection

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Called for every new connection: a lost one leaves the hub empty (kombu's `Hub.reset`)."""
        loop.add_reader(self.consumer_loop.inbox, self.consumer_loop.deliver_all)
        self.consumer_loop.inbox.wake(always=True)  # a consumer may have begun before
        loop.call_repeatedly(BEAT_EVERY_SECONDS, self.consumer_loop.beat)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        if not self.consumer_loop.deliver_next(timeout):
            raise TimeoutError

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        self.consumer_loop.close()


install(Transport)
