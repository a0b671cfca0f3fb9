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
    """The transport to set as `broker_transport`, together with a `broker_url` of `sqs://`.

    Its options are kombu's and those in docs/celery_sqs.md.
    """

    Channel = Channel

    # After one of these errors, a worker connects again (celery.worker.consumer). ClientError is included, so that the
    # worker keeps retrying and logging until a person has fixed a policy or created a queue.
    connection_errors = (*SQS.Transport.connection_errors, ClientError)

    # After one of these errors, kombu retries a publish or a declaration up to `max_retries` times (Connection.ensure).
    # That is three times for a task (task_publish_retry_policy). For remote commands and replies it is unlimited, so
    # they raise none of these errors (ControlQueues.broadcast, ReplySender). After the last retry kombu raises an
    # OperationalError, for which `Request` gives back the message of the task that published.
    recoverable_connection_errors = (
        ChannelClosed,  # the consumer has closed the channel, and kombu makes a new one
        SqsUnavailable,  # SQS cannot be reached, throttles, or answers with a 5xx status
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.consumer_loop = ConsumerLoop(client.transport_options.get("liveness_file"))
        if control_queue_prefix(client.transport_options):
            self.implements = self.implements.extend(exchange_type=frozenset({"direct", "topic", "fanout"}))

    def establish_connection(self) -> Any:
        """Connect to SQS, which means to make one cheap request.

        Raises:
            SqsUnavailable: SQS cannot be reached. kombu then tries the next broker URL if there are several, and health
                checks fail.
        """
        connection = super().establish_connection()
        self._avail_channels[-1].check_connection()
        return connection

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Add the inbox and the heartbeat to the worker's event loop.

        This is called for every new connection, because kombu empties the hub when one is lost (`Hub.reset`).
        """
        loop.add_reader(self.consumer_loop.inbox, self.consumer_loop.deliver_all)
        self.consumer_loop.inbox.wake(always=True)  # consumers may have been added before
        loop.call_repeatedly(BEAT_EVERY_SECONDS, self.consumer_loop.beat)

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        if not self.consumer_loop.deliver_next(timeout):
            raise TimeoutError

    def close_connection(self, connection: Any) -> None:
        super().close_connection(connection)
        self.consumer_loop.close()


install(Transport)
