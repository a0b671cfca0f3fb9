"""What the pages share: they ask AWS outside Tornado's loop and with time-outs, and change something only if safe."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from flower.views import BaseHandler
from tornado import web

from celery_sqs.flower_pages import asks_for_password
from emails.report import masked
from emails.resources import ResourcesMissing
from emails.store import Attention, EmailStore, EventStore, StoreRefused, StoreUnavailable
from settings import get_settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_sqs import SQSClient

Result = TypeVar("Result")

TEMPLATES = Path(__file__).with_name("templates")
# Somebody is waiting for the page. boto3 makes two attempts, each with this time-out.
READ_SECONDS = 4.0
ATTEMPTS = 2
PAGE_SECONDS = 25.0  # the longest that a page waits for all its requests
# Tornado's loop has Flower's own executor. These threads are others, so that a DynamoDB that does not answer cannot
# keep Flower from asking its workers.
_threads = ThreadPoolExecutor(8, thread_name_prefix="emails")


class Services(NamedTuple):
    """The tables and the queues, with clients whose time-outs suit a page."""

    store: EmailStore
    events: EventStore
    attention: Attention
    sqs: SQSClient


@cache
def services() -> Services:
    settings = get_settings()
    dynamodb = client("dynamodb", settings, read_timeout=READ_SECONDS, attempts=ATTEMPTS)
    return Services(
        EmailStore(dynamodb, settings.table, grouped=False),
        EventStore(dynamodb, settings.events_table),
        Attention(dynamodb, settings.table),
        client("sqs", settings, read_timeout=READ_SECONDS, attempts=ATTEMPTS),
    )


class Unavailable(Exception):
    """AWS did not answer, or answered with an error. The text is for a person."""


class Page(BaseHandler):
    """A page about emails. Its methods are in Tornado's loop."""

    async def ask(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call the function, which makes requests to AWS, in a thread.

        Raises:
            Unavailable: the function raised one of AWS's errors, or took too long.
        """
        call = asyncio.get_running_loop().run_in_executor(_threads, partial(function, *args))
        try:
            return await asyncio.wait_for(call, PAGE_SECONDS)
        except (StoreUnavailable, StoreRefused, ResourcesMissing) as error:
            raise Unavailable(f"{error}.") from None
        except ClientError as error:
            raise Unavailable(f"AWS answered with {error.response['Error']['Code']}.") from None
        except BotoCoreError as error:
            raise Unavailable(f"AWS cannot be reached: {type(error).__name__}.") from None
        except TimeoutError:
            raise Unavailable(f"AWS did not answer within {PAGE_SECONDS:g} seconds.") from None

    def show(self, template: str, **values: Any) -> None:
        """Render one of our templates."""
        confirm = str(TEMPLATES / "confirm.html")
        shared = {"may_act": self.may_act, "link": link, "one_line": one_line, "confirm": confirm}
        self.render(str(TEMPLATES / template), **shared, **values)

    def text(self, name: str) -> str:
        """Return an argument of the request, or "". It is not escaped, because templates do that."""
        return self.get_argument(name, "", strip=False, escape=False)

    def number(self, name: str) -> int:
        """Return an argument as the number of a page, from 1."""
        text = self.text(name)
        return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 7 else 1  # noqa: PLR2004

    @property
    def may_act(self) -> bool:
        """Whether the page has buttons, and carries out what they ask for."""
        return get_settings().flower_actions and asks_for_password() and not self.application.options.read_only

    def check_xsrf_cookie(self) -> None:
        """Refuse a POST that another site may have made. Tornado calls this before `post`.

        Browsers send the password of basic authentication by themselves, also with a form of another site. Flower
        therefore compares the origin, if there is one. We require an origin and Tornado's token too.
        """
        if not self.may_act:
            raise web.HTTPError(HTTPStatus.FORBIDDEN, "Actions are off: see EMAIL_FLOWER_ACTIONS")
        origin = urlsplit(self.request.headers.get("Origin", ""))
        site = self.request.headers.get("Sec-Fetch-Site", "same-origin")
        if site != "same-origin" or not origin.netloc or origin.netloc != self.request.host:
            raise web.HTTPError(HTTPStatus.FORBIDDEN, "The request comes from another site")
        web.RequestHandler.check_xsrf_cookie(self)


def one_line(value: object) -> object:
    """Return what a table shows of an attribute, with addresses masked."""
    return masked({"": value})[""] if isinstance(value, str) else value


def link(path: str, **arguments: object) -> str:
    """Return a URL with these arguments, without those that are empty."""
    query = urlencode({name: value for name, value in arguments.items() if value})
    return f"{path}?{query}" if query else path
