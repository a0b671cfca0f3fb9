"""What a worker says at its start about the FIFO queues that it consumes."""

from __future__ import annotations

from typing import Any

from kombu.log import get_logger

from celery_sqs.channel import Channel

logger = get_logger(__name__)


def warn_of_concurrency(consumer: Any) -> None:
    """Warn if the worker of this consumer runs several tasks of a FIFO queue at once.

    One receive may bring several messages of a message group, and every one of them goes to the pool.
    """
    channel = consumer.task_consumer.channel
    concurrency = max(
        consumer.pool.num_processes, consumer.controller.max_concurrency or 0
    )  # the latter with --autoscale
    if concurrency > 1 and isinstance(channel, Channel) and (queues := channel.fifo_queues()):
        logger.warning(
            "%s: with a concurrency of %d, tasks of one message group run side by side and may end in another order; "
            "consume a FIFO queue with --concurrency 1",
            ", ".join(queues),
            concurrency,
        )
