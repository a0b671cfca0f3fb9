"""The command that receives what services report by HTTP, and puts it on the callbacks queue."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import click
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body

from celery_sqs.sqs.batches import MAX_ENTRIES, MAX_MESSAGE_BYTES
from commands import say
from emails.logs import formatter, write_by
from emails.webhooks.envelope import LARGEST_BODY
from emails.webhooks.receiver import Answer, WebhookReceiver, callbacks_queue, send
from emails.webhooks.request import WebhookRequest
from emails.webhooks.settings import WebhookSettings
from settings import get_settings

if TYPE_CHECKING:
    from socket import socket

    from celery_sqs.sqs.queue import Queue

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
SENDERS = 8  # threads, each of which waits for one request to SQS
READING_BYTES = 64 * 2**20  # of the bodies of requests that have no answer yet, in all
WAITING_BYTES = 64 * 2**20  # of the messages that SQS has not confirmed yet, in all
LONGEST_DISCARDED = 16 * 2**20  # bytes of a request's body that are read before the connection is closed
UNAVAILABLE = Answer(HTTPStatus.SERVICE_UNAVAILABLE)  # services send the report again
BODY_SECONDS, IDLE_SECONDS, STOP_SECONDS = 20, 75, 20


@click.command()
@click.option("--host", default=HOST, show_default=True, help="The address on which to listen.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0 picks a free port.")
def webhooks(host: str, port: int) -> None:
    """Receive what services report by HTTP, and put it on the callbacks queue.

    A service whose webhook secret is set (see .env.example) posts to /webhooks/NAME, for example /webhooks/postmark. It
    gets the answer 200 after SQS has confirmed the message. /health answers 200 until the program is told to stop. It
    speaks plain HTTP, so put a reverse proxy with TLS in front of it (docs/deploy.md).
    """
    settings = get_settings()
    receiver = WebhookReceiver(WebhookSettings.read())
    queue = callbacks_queue(settings)
    write_by(logging.StreamHandler(sys.stderr), logging.INFO, formatter(settings.log_format))
    try:
        sockets = bind_sockets(port, host)
    except OSError as error:
        raise click.ClickException(f"Cannot listen on {host}:{port}: {error.strerror or error}") from None
    asyncio.run(serve(receiver, queue, sockets))


async def serve(receiver: WebhookReceiver, queue: Queue, sockets: list[socket]) -> None:
    """Answer requests until SIGTERM or SIGINT, and then those that have begun."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with ThreadPoolExecutor(SENDERS) as pool:
        shared = {"receiver": receiver, "senders": Senders(queue, pool), "in_progress": (in_progress := InProgress())}
        application = Application(
            [("/health", _Health, {"stop": stop}), ("/.*", _Webhook, shared)],
            log_function=lambda _: None,  # the access log would have addresses in URLs
        )
        server = HTTPServer(
            application,
            max_body_size=LONGEST_DISCARDED,
            body_timeout=BODY_SECONDS,
            idle_connection_timeout=IDLE_SECONDS,
        )
        server.add_sockets(sockets)
        host, port, *_ = sockets[0].getsockname()
        say(f"listening on http://{host}:{port} for webhooks of {', '.join(receiver.providers)}")
        await stop.wait()
        server.stop()
        await in_progress.wait(STOP_SECONDS)
        await server.close_all_connections()


class Senders:
    """Sends the messages of all requests in batches, because a request to SQS costs much more than a message in it."""

    def __init__(self, queue: Queue, pool: ThreadPoolExecutor) -> None:
        self._queue = queue
        self._pool = pool
        self._waiting: deque[tuple[str, asyncio.Future[bool]]] = deque()
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._working = 0

    async def send(self, messages: tuple[str, ...]) -> bool:
        """Send the messages. Return whether SQS confirmed them."""
        size = sum(map(len, messages))
        if self._bytes and self._bytes + size > WAITING_BYTES:
            return False
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in messages]
        self._waiting.extend(zip(messages, futures, strict=True))
        self._bytes += size
        if self._working < SENDERS:
            self._working += 1
            task = loop.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return all(await asyncio.gather(*futures))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._next_batch()
            entries = [{"MessageBody": message} for message, _ in batch]
            try:
                codes = await loop.run_in_executor(self._pool, send, self._queue, entries)
            except Exception as error:
                logger.exception("could not send webhooks: %s", type(error).__name__)
                codes = ["Error"] * len(batch)
            for (message, future), code in zip(batch, codes, strict=True):
                self._bytes -= len(message)
                if not future.done():
                    future.set_result(not code)
        # This is in the same step of the loop as the last look at what waits, so nothing can be left waiting.
        self._working -= 1

    def _next_batch(self) -> list[tuple[str, asyncio.Future[bool]]]:
        batch, left = [self._waiting.popleft()], MAX_MESSAGE_BYTES
        left -= len(batch[0][0])
        while self._waiting and len(batch) < MAX_ENTRIES and len(self._waiting[0][0]) <= left:
            batch.append(self._waiting.popleft())
            left -= len(batch[-1][0])
        return batch


class InProgress:
    """The requests that have no answer yet, and how many bytes of their bodies are kept."""

    def __init__(self) -> None:
        self._kept: dict[object, int] = {}
        self._bytes = 0
        self._none = asyncio.Event()
        self._none.set()

    def add(self, request: object) -> None:
        self._kept[request] = 0
        self._none.clear()

    def may_keep(self, request: object, size: int) -> bool:
        """Return whether there is room for so many more bytes of the request, and count them if there is."""
        if request not in self._kept or self._bytes + size > READING_BYTES:
            return False
        self._kept[request] += size
        self._bytes += size
        return True

    def discard(self, request: object) -> None:
        self._bytes -= self._kept.pop(request, 0)
        if not self._kept:
            self._none.set()

    async def wait(self, seconds: float) -> None:
        """Wait until every request has its answer, for at most so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._none.wait(), seconds)


class _Health(RequestHandler):
    def initialize(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def get(self) -> None:
        self.set_status(HTTPStatus.SERVICE_UNAVAILABLE if self._stop.is_set() else HTTPStatus.OK)
        self.finish("stopping\n" if self._stop.is_set() else "ok\n")


@stream_request_body
class _Webhook(RequestHandler):
    """Reads the body by itself, because Tornado would close the connection of one that is too large."""

    SUPPORTED_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

    def initialize(self, receiver: WebhookReceiver, senders: Senders, in_progress: InProgress) -> None:
        self._receiver = receiver
        self._senders = senders
        self._in_progress = in_progress
        self._body = bytearray()
        self._is_kept = True

    def prepare(self) -> None:
        self._in_progress.add(self)
        length = self.request.headers.get("Content-Length", "")
        if length.isdecimal() and (len(length) > len(str(LONGEST_DISCARDED)) or int(length) > LONGEST_DISCARDED):
            self.set_status(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            self.set_header("Connection", "close")
            self.finish()

    def on_finish(self) -> None:
        self._in_progress.discard(self)

    def on_connection_close(self) -> None:
        self._in_progress.discard(self)

    def data_received(self, chunk: bytes) -> None:
        if len(self._body) > LARGEST_BODY:
            return  # what is longer is only counted as too long
        if self._is_kept and not self._in_progress.may_keep(self, len(chunk)):
            self._is_kept = False
            logger.error("too many webhooks arrive at the same time, so services will have to send some again")
        if self._is_kept:
            self._body += chunk

    async def _answer(self, *_: Any) -> None:
        answer = await self._answer_after_sqs() if self._is_kept else UNAVAILABLE
        self.set_status(answer.status)
        self.clear_header("Content-Type")
        for name, value in answer.headers.items():
            self.set_header(name, value)
        await self.finish()

    async def _answer_after_sqs(self) -> Answer:
        headers = {name.lower(): value for name, value in self.request.headers.get_all()}
        request = WebhookRequest(headers, bytes(self._body))
        answer = self._receiver.answer(self.request.method or "", self.request.path, request, time.time())
        return answer if not answer.messages or await self._senders.send(answer.messages) else UNAVAILABLE

    get = head = post = put = patch = delete = options = _answer  # the receiver decides which methods there are
