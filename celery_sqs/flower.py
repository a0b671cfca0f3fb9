"""Flower on SQS: the Broker tab, who may reach it, and what it takes for an event.

Flower 2.2 has no Broker for `sqs://`, listens on all interfaces without asking for a password, tells all workers every
five seconds to send events, and shows no page any more after some events that Celery would not send.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from functools import cache
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import flower.api
import flower.app
import flower.command
import flower.events
import flower.utils.search
import flower.views
from botocore.exceptions import BotoCoreError, ClientError
from celery.events.receiver import EventReceiver
from flower.options import options
from flower.views.broker import BrokerView
from kombu.transport.SQS.exceptions import DoesNotExistQueueException, UndefinedQueueException
from tornado import web

from celery_sqs.monitor_events import known_event
from celery_sqs.sqs.oldest_message import ages_of_oldest_messages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery
    from tornado.httputil import HTTPHeaders

    from celery_sqs.sqs.queue import Queue

TEMPLATE = Path(__file__).with_name("flower_broker.html")

# No other site may show a page of Flower's in a frame, under which a click revokes a task; the first is for browsers
# that do not know the second. A browser takes no answer for another type than it has.
HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

# Somebody waits for the page.
CLIENT_CONFIG = {
    "connect_timeout": 2,
    "read_timeout": 3,
    "retries": {"mode": "standard", "total_max_attempts": 1},
}


def install() -> None:
    """Call it where the Celery app is made: `celery flower` imports that before it reads any option.

    So FLOWER_* variables, flowerconfig.py and the command line override what is set here.
    """
    options.address = "127.0.0.1"
    options.enable_events = False  # workers on celery_sqs send events once somebody listens
    flower.command.Flower = Flower
    flower.events.EventReceiver = Receiver
    flower.utils.search._kwargs_pairs = keyword_arguments
    flower.views.hmac = SimpleNamespace(compare_digest=compare_digest)
    flower.views.BaseHandler.get_broker = lambda handler: broker_of(handler.capp)
    BrokerView.get = show_queues
    flower.api.BaseApiHandler.write_error = ask_for_password


class Flower(flower.app.Flower):
    """Listens beyond this machine only with authentication, and gives every answer our headers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_transform(AddHeaders)

    def start_http_server(self) -> int | None:
        """Raises SystemExit. Called when every option is known."""
        # A variable that is set to nothing is Flower's [""].
        asks = any(options.basic_auth or ()) or options.auth
        if not (options.unix_socket or asks or is_loopback(options.address)):
            raise SystemExit(
                f"Flower would listen on {options.address or 'all interfaces'} and let anybody in: set "
                "FLOWER_BASIC_AUTH=user:password (or --auth with OAuth2), or --address=127.0.0.1."
            )
        return super().start_http_server()


class AddHeaders(web.OutputTransform):
    """Not every answer comes from a handler of Flower's: files and what is not found are tornado's."""

    def transform_first_chunk(
        self,
        status_code: int,
        headers: HTTPHeaders,
        chunk: bytes,
        finishing: bool,
    ) -> tuple[int, HTTPHeaders, bytes]:
        headers.update(HEADERS)
        return super().transform_first_chunk(status_code, headers, chunk, finishing)


class Receiver(EventReceiver):
    """Drops events that Celery would not send."""

    def _receive(self, body: object, message: object) -> None:
        events = map(known_event, body if isinstance(body, list) else [body])
        super()._receive([event for event in events if event], message)


_kwargs_pairs = flower.utils.search._kwargs_pairs


def keyword_arguments(value: object) -> frozenset[str]:
    """By which a task can be found: Flower parses them as Python, for which some are nested too deeply."""
    try:
        return _kwargs_pairs(value)
    except (MemoryError, RecursionError):
        return frozenset()


def compare_digest(one: str, other: str) -> bool:
    """For Flower's comparison of passwords: the library's own takes text in ASCII alone."""
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass"))


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address. Flower's "" is all interfaces."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


_write_error = flower.api.BaseApiHandler.write_error


def ask_for_password(handler: flower.api.BaseApiHandler, status_code: int, **details: Any) -> None:
    """Say on a 401 of the API how to log in, as Flower's pages do and its API does not.

    Browsers send the password that they know from /task/… to /api/… only when they are asked: without this the buttons
    of a page that was opened by its own link do nothing, and show an empty message.
    """
    if status_code == HTTPStatus.UNAUTHORIZED and any(options.basic_auth or ()):
        handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
    _write_error(handler, status_code, **details)


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
        client_config = {**(configured.get("client-config") or {}), **CLIENT_CONFIG}
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
