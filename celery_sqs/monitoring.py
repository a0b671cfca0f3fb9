"""Events, remote commands and replies for one broker, shared by all channels of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.exceptions import ClientError
from kombu.exceptions import OperationalError

from celery_sqs.control_queues import ControlQueues, is_for_replies
from celery_sqs.events import WINDOW_SECONDS, EventPublisher
from celery_sqs.exceptions import SqsUnavailable, errors_translated
from celery_sqs.per_process import one_per_process
from celery_sqs.replies import ReplySender

if TYPE_CHECKING:
    from collections.abc import Callable

    from kombu.transport import SQS

CONTROL_QUEUE_PREFIX = "celery-control-"


class Monitoring(NamedTuple):
    """The control queues, event publisher and reply sender that one process has for one broker."""

    queues: ControlQueues
    events: EventPublisher
    replies: ReplySender

    def bind(self, queue: str, exchange: str, routing_key: str) -> None:
        """Create the queue that kombu calls `queue`, bound to the exchange, unless this process already has it."""
        try:
            with errors_translated():
                self.queues.open(queue, exchange, routing_key)
        except (SqsUnavailable, ClientError) as error:
            if not is_for_replies(exchange):
                raise
            # Callers of remote commands expect this error, which other transports raise, too.
            raise OperationalError(f"cannot create a queue for replies: {error}") from error


def control_queue_prefix(options: dict[str, Any]) -> str:
    """Return the prefix of control queues' names, or "" if the option turns control queues off."""
    return options.get("control_queue_prefix", CONTROL_QUEUE_PREFIX) or ""


def monitoring_of(channel: SQS.Channel, short_timeout_client: Callable[[], Any]) -> Monitoring | None:
    """Return this process's Monitoring for the channel's broker, or None if the option turns it off.

    Connections share it, because a remote call and its reply may use different connections, and because the events of
    all connections are sent together.
    """
    options = channel.transport_options
    prefix = control_queue_prefix(options)
    if not prefix:
        return None
    full_prefix = channel.canonical_queue_name(prefix)
    sqs, client = channel.sqs(), short_timeout_client()

    def make() -> Monitoring:
        attributes, tags = options.get("sqs-creation-attributes") or {}, options.get("queue_tags") or {}
        queues = ControlQueues(full_prefix, lambda: client, lambda: sqs, attributes, tags)
        window, types = options.get("events_window", WINDOW_SECONDS), options.get("event_types", ())
        return Monitoring(queues, EventPublisher(queues, window, types), ReplySender(queues))

    return one_per_process((channel.endpoint_url, channel.region, full_prefix), make)
