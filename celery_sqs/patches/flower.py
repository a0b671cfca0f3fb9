"""All replacements that this package makes in Flower 2.2.

Flower has no Broker for `sqs://`. It listens on all interfaces without a password. After certain events that Celery
would not send, it shows no page any more.
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
from celery_sqs.flower_pages import Loader, Pages, asks_for_password
from celery_sqs.patches.remote_control import CANNOT_RESIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from tornado.httputil import HTTPHeaders

# The first two stop other sites from showing Flower's pages in a frame, where they could trick a user into a click that
# revokes a task. X-Frame-Options is for browsers that do not know the second header. The third stops browsers from
# guessing another content type.
HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

# The pools that have no `grow`, as `inspect stats` names them.
OF_FIXED_SIZE = frozenset({"celery.concurrency.solo:TaskPool", "celery.concurrency.thread:TaskPool"})
ADVICE = "To resize the pool, start Flower with authentication, for example FLOWER_BASIC_AUTH=user:password."

# The pages of every Flower that this process starts.
added: list[Pages] = []

_kwargs_pairs = flower.utils.search._kwargs_pairs
_write_error = flower.api.BaseApiHandler.write_error


def install(broker_of: Callable[[Celery], Any], show_queues: Callable[[BrokerView], Any]) -> None:
    """Install the replacements. `broker_of` returns an app's broker, and `show_queues` renders the Broker tab."""
    flower.command.Flower = Flower
    flower.events.EventReceiver = Receiver
    flower.utils.search._kwargs_pairs = keyword_arguments
    flower.views.hmac = SimpleNamespace(compare_digest=compare_digest)
    flower.views.BaseHandler.get_broker = lambda handler: broker_of(handler.capp)
    BrokerView.get = show_queues
    flower.api.BaseApiHandler.write_error = ask_for_password


class Flower(flower.app.Flower):
    """A Flower that requires authentication to listen beyond this machine, and has our headers and pages."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, template_loader=Loader(kwargs["template_path"]))
        self.add_transform(AddHeaders)
        routes = [route for pages in added for route in pages.routes]
        if prefix := self.options.url_prefix:
            routes = [flower.app.rewrite_handler(route, prefix) for route in routes]
        self.add_handlers(".*", routes)
        self.tabs = {name: label for pages in added for name, label in pages.tabs.items()}

    def why_not_resize(self, worker: dict[str, Any], *, is_open: bool) -> str:
        """Say why the buttons that resize this worker's pool would fail. Return "" if they would not.

        `is_open` tells whether Flower's API needs no authentication.
        """
        if worker["stats"].get("pool", {}).get("implementation") in OF_FIXED_SIZE:
            return CANNOT_RESIZE[0].upper() + CANNOT_RESIZE[1:] + "."
        return "" if asks_for_password() or is_open else ADVICE

    def start_http_server(self) -> int | None:
        """Start the server. Flower calls this once all options are known.

        Raises:
            SystemExit: Flower would listen on other interfaces than loopback without authentication.
        """
        if not (options.unix_socket or asks_for_password() or is_loopback(options.address)):
            raise SystemExit(
                f"Flower would listen on {options.address or 'all interfaces'} and let anybody in: set "
                "FLOWER_BASIC_AUTH=user:password (or --auth with OAuth2), or --address=127.0.0.1."
            )
        return super().start_http_server()


class AddHeaders(web.OutputTransform):
    """Adds our headers to every response, including those that tornado makes itself (static files and 404s)."""

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
    """An EventReceiver that drops events which Celery would not send."""

    def _receive(self, body: object, message: object) -> None:
        events = map(known_event, body if isinstance(body, list) else [body])
        super()._receive([event for event in events if event], message)


def keyword_arguments(value: object) -> frozenset[str]:
    """Return the keyword arguments by which Flower's search finds a task.

    Flower parses them as Python, which fails if they are nested too deeply. Then there are none to search by.
    """
    try:
        return _kwargs_pairs(value)
    except (MemoryError, RecursionError):
        return frozenset()


def compare_digest(one: str, other: str) -> bool:
    """Compare two passwords for Flower. The standard library's function accepts only ASCII text."""
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass"))


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address. Flower uses "" for all interfaces."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def ask_for_password(handler: flower.api.BaseApiHandler, status_code: int, **details: Any) -> None:
    """Add the WWW-Authenticate header to a 401 from the API. Flower sends it with its pages, but not with its API.

    A browser that has the password for /task/… sends it to /api/… only if it is asked. Without the header, the buttons
    on a page that was opened through its own link would do nothing and show an empty message.
    """
    if status_code == HTTPStatus.UNAUTHORIZED and any(options.basic_auth or ()):
        handler.set_header("WWW-Authenticate", 'Basic realm="flower"')
    _write_error(handler, status_code, **details)
