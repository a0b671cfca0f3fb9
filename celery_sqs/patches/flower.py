"""Everything that this package replaces in Flower 2.2.

Flower has no Broker for `sqs://`, listens on all interfaces without asking for a password, and shows no page any more
after some events that Celery would not send.
"""

from __future__ import annotations

import hmac
import ipaddress
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import flower.api
import flower.app
import flower.command
import flower.events
import flower.utils.search
import flower.views
from celery.events.receiver import EventReceiver
from flower.options import options
from flower.views.broker import BrokerView
from tornado import web

from celery_sqs.flower_events import known_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from tornado.httputil import HTTPHeaders

# No other site may show a page of Flower's in a frame, under which a click revokes a task; the first is for browsers
# that do not know the second. A browser takes no answer for another type than it has.
HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

_kwargs_pairs = flower.utils.search._kwargs_pairs
_write_error = flower.api.BaseApiHandler.write_error


def install(broker_of: Callable[[Celery], Any], show_queues: Callable[[BrokerView], Any]) -> None:
    """Replace what this package replaces in Flower: its broker and the page about it by those that are given."""
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


def ask_for_password(handler: flower.api.BaseApiHandler, status_code: int, **details: Any) -> None:
    """Say on a 401 of the API how to log in, as Flower's pages do and its API does not.

    Browsers send the password that they know from /task/… to /api/… only when they are asked: without this the buttons
    of a page that was opened by its own link do nothing, and show an empty message.
    """
    if status_code == HTTPStatus.UNAUTHORIZED and any(options.basic_auth or ()):
        handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
    _write_error(handler, status_code, **details)
