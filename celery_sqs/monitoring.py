"""Events, remote commands and their replies of one broker, as every channel of a process shares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from celery_sqs.control_queues import ControlQueues
from celery_sqs.events import WINDOW_SECONDS, EventPublisher
from celery_sqs.per_process import one_per_process
from celery_sqs.replies import ReplySender

if TYPE_CHECKING:
    from collections.abc import Callable


class Monitoring(NamedTuple):
    """Of one process, for one broker."""

    queues: ControlQueues
    events: EventPublisher
    replies: ReplySender


def control_queue_prefix(options: dict[str, Any]) -> str:
    """What the names of control queues begin with; nothing where the option turns them off."""
    return options.get("control_queue_prefix", "celery-control-") or ""


def monitoring_of(
    broker: tuple[str | None, str, str],
    options: dict[str, Any],
    client: Callable[[], Any],
    poll_client: Callable[[], Any],
) -> Monitoring:
    """This process's for the broker: its endpoint, its region, and what the names of its control queues begin with.

    A remote call and its reply may travel by two connections, and every connection's events leave together.
    """

    def make() -> Monitoring:
        attributes, tags = options.get("sqs-creation-attributes") or {}, options.get("queue_tags") or {}
        queues = ControlQueues(broker[-1], client, poll_client, attributes, tags)
        window, types = options.get("events_window", WINDOW_SECONDS), options.get("event_types", ())
        return Monitoring(queues, EventPublisher(queues, window, types), ReplySender(queues))

    return one_per_process(broker, make)
