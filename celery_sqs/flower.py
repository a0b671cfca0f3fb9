"""Flower on SQS: what its Broker tab shows, and two of its defaults. patches/flower.py replaces what is Flower's."""

from __future__ import annotations

import asyncio
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from flower.options import options
from kombu.transport.SQS.exceptions import DoesNotExistQueueException, UndefinedQueueException
from tornado import web

from celery_sqs.clients import SHORT_TIMEOUTS
from celery_sqs.patches import flower as patches
from celery_sqs.sqs.oldest_message import ages_of_oldest_messages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery
    from flower.views.broker import BrokerView

    from celery_sqs.sqs.queue import Queue

TEMPLATE = Path(__file__).with_name("flower_broker.html")


def install() -> None:
    """Call it where the Celery app is made: `celery flower` imports that before it reads any option.

    So FLOWER_* variables, flowerconfig.py and the command line override what is set here.
    """
    options.address = "127.0.0.1"
    options.enable_events = False  # Flower would tell all workers every five seconds to do what they do anyway
    patches.install(broker_of, show_queues)


@web.authenticated
async def show_queues(handler: BrokerView) -> None:
    """The Broker tab: the app's queues, and those that workers consume besides."""
    names = {*handler.get_active_queue_names(), *(queue.name for queue in handler.capp.conf.task_queues or ())}
    broker: Broker = handler.get_broker()
    handler.render(str(TEMPLATE), broker_url=broker.url, queues=await broker.queues(sorted(names)))


class Broker:
    """What Flower asks for a broker: SQS, by the app's own transport and its options."""

    def __init__(self, app: Celery) -> None:
        configured = app.conf.broker_transport_options
        client_config = {**(configured.get("client-config") or {}), **SHORT_TIMEOUTS}
        transport = app.connection_for_read(transport_options={"client-config": client_config}).transport
        # Without connecting, which would be a request here: each queue's figures say what is wrong.
        self._channel = transport.create_channel(transport)

    @property
    def url(self) -> str:
        """Where the queues are; kombu's own names neither region nor endpoint, and shows the access key."""
        return f"{self._channel.endpoint_url or 'sqs://'} {self._channel.region}"

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Each queue's figures under Flower's names, all as approximate as SQS's; or under `error` why they are not."""
        names = list(names)
        loop = asyncio.get_running_loop()
        figures = asyncio.gather(*(loop.run_in_executor(None, self._figures, name) for name in names))
        ages = await loop.run_in_executor(None, self._ages, names)
        return [{**queue, "age_of_oldest_message": ages.get(queue["name"])} for queue in await figures]

    def _figures(self, name: str) -> dict[str, Any]:
        figures: dict[str, Any] = {"name": name}
        try:
            self._channel._resolve_queue_url(name)  # raises where `_queue` would create the queue
            queue: Queue = self._channel._queue(name)
            depths = queue.depths()
            figures |= {
                "messages": sum(depths),
                "messages_ready": depths.ready,
                "messages_unacknowledged": depths.in_flight,
                "messages_delayed": depths.delayed,
            }
            if dead_letters := queue.dead_letters():
                figures["dead_letters"] = dead_letters.depths().ready
        except (BotoCoreError, ClientError, DoesNotExistQueueException, UndefinedQueueException) as error:
            figures["error"] = str(error)
        return figures

    def _ages(self, names: list[str]) -> dict[str, float]:
        """Seconds, by queue; without those that CloudWatch, the only one to know, does not tell."""
        channel, connection = self._channel, self._channel.conninfo
        queues = {channel.canonical_queue_name(name): name for name in names}
        try:
            cloudwatch = channel._new_boto_client("cloudwatch", channel.region, connection.userid, connection.password)
        except BotoCoreError:
            return {}
        ages = ages_of_oldest_messages(cloudwatch, list(queues))
        return {queues[queue]: age for queue, age in ages.items()}


@cache
def broker_of(app: Celery) -> Broker:
    """The app's own, so that the URLs of its queues are asked for once."""
    return Broker(app)
