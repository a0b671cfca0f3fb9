"""Lets Flower work with SQS: it fills the Broker tab and sets two defaults. patches/flower.py has the replacements."""

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
from celery_sqs.flower_pages import Pages
from celery_sqs.patches import flower as patches
from celery_sqs.sqs.errors import code_of
from celery_sqs.sqs.oldest_message import read_ages

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from celery import Celery
    from flower.views.broker import BrokerView
    from tornado.routing import URLSpec

    from celery_sqs.sqs.queue import Queue

TEMPLATE = Path(__file__).with_name("flower_broker.html")


def install() -> None:
    """Prepare Flower. Call this in the module that makes the Celery app.

    `celery flower` imports that module before it reads any option, so FLOWER_* variables, flowerconfig.py and the
    command line override the defaults that are set here.
    """
    options.address = "127.0.0.1"
    options.enable_events = False  # otherwise Flower asks all workers every 5 s to send events, which they do anyway
    patches.install(broker_of, show_queues)


def add_pages(routes: list[URLSpec], tabs: Mapping[str, str]) -> None:
    """Add pages to every Flower that this process starts, and a tab for each route that `tabs` gives a label.

    A route with the name `dead-letters` is what the Broker tab links to.
    """
    patches.added.append(Pages(routes, tabs))


@web.authenticated
async def show_queues(handler: BrokerView) -> None:
    """Render the Broker tab with the app's queues and any others that workers consume."""
    names = {*handler.get_active_queue_names(), *(queue.name for queue in handler.capp.conf.task_queues or ())}
    broker: Broker = handler.get_broker()
    handler.render(str(TEMPLATE), broker_url=broker.url, queues=await broker.queues(sorted(names)))


class Broker:
    """The broker that Flower asks for figures. It reaches SQS through the app's transport and its options."""

    def __init__(self, app: Celery) -> None:
        configured = app.conf.broker_transport_options
        client_config = {**(configured.get("client-config") or {}), **SHORT_TIMEOUTS}
        transport = app.connection_for_read(transport_options={"client-config": client_config}).transport
        # The channel is made without connecting, which would make a request here. If SQS cannot be reached, each
        # queue's `error` says so.
        self._channel = transport.create_channel(transport)

    @property
    def url(self) -> str:
        """The endpoint and the region. kombu's own URL contains neither, and it shows the access key."""
        return f"{self._channel.endpoint_url or 'sqs://'} {self._channel.region}"

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return the figures of each queue under Flower's names.

        They are as approximate as SQS's. If a queue cannot be read, `error` says why.
        """
        names = list(names)
        loop = asyncio.get_running_loop()
        figures = asyncio.gather(*(loop.run_in_executor(None, self._figures, name) for name in names))
        ages, unknown = await loop.run_in_executor(None, self._ages, names)
        return [
            {**queue, "age_of_oldest_message": ages.get(queue["name"]), "age_unknown": unknown}
            for queue in await figures
        ]

    def _figures(self, name: str) -> dict[str, Any]:
        figures: dict[str, Any] = {"name": name}
        try:
            self._channel._resolve_queue_url(name)  # raises if the queue does not exist; `_queue` would create it
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

    def _ages(self, names: list[str]) -> tuple[dict[str, float], str]:
        """Return the age of each queue's oldest message in seconds, and why those that are left out are unknown.

        SQS itself reports no ages.
        """
        channel, connection = self._channel, self._channel.conninfo
        queues = {channel.canonical_queue_name(name): name for name in names}
        try:
            cloudwatch = channel._new_boto_client("cloudwatch", channel.region, connection.userid, connection.password)
            ages = read_ages(cloudwatch, list(queues))
        except ClientError as error:
            return {}, f"CloudWatch answered with {code_of(error)}"
        except BotoCoreError as error:
            return {}, f"CloudWatch cannot be reached: {type(error).__name__}"
        return {queues[queue]: age for queue, age in ages.items()}, "CloudWatch has no figure yet"


@cache
def broker_of(app: Celery) -> Broker:
    """Return the app's broker. It is cached, so that the URL of each queue is requested only once."""
    return Broker(app)
