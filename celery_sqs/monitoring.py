"""Events and remote control of one broker, as every channel of a process shares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from celery_sqs.control_queues import ControlQueues
from celery_sqs.events import WINDOW_SECONDS, EventPublisher
from celery_sqs.per_process import one_per_process
from celery_sqs.replies import ReplySender

if TYPE_CHECKING:
    from celery_sqs.channel import Channel


class Monitoring(NamedTuple):
    """Of one process, for one broker."""

    queues: ControlQueues
    events: EventPublisher
    replies: ReplySender


def monitoring_of(channel: Channel) -> Monitoring | None:
    """The process's control queues and events for the channel's broker, or nothing where the option turns them off.

    A remote call and its reply may travel by two connections, and every connection's events leave together.
    """
    prefix = channel._transport.control_queue_prefix
    if not prefix:
        return None
    options = channel.transport_options
    full_prefix = channel.canonical_queue_name(prefix)
    sqs, impatient = channel.sqs(), channel.impatient_client()

    def make() -> Monitoring:
        attributes, tags = options.get("sqs-creation-attributes") or {}, options.get("queue_tags") or {}
        queues = ControlQueues(full_prefix, lambda: impatient, lambda: sqs, attributes, tags)
        window, types = options.get("events_window", WINDOW_SECONDS), options.get("event_types", ())
        return Monitoring(queues, EventPublisher(queues, window, types), ReplySender(queues))

    return one_per_process((channel.endpoint_url, channel.region, full_prefix), make)
