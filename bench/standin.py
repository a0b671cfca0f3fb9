"""A fast in-memory stand-in for SQS and DynamoDB that counts requests: `python -m bench.standin --port 4570`.

With `--latency 5`, each answer of DynamoDB comes 5 ms later.

It is not an emulator. It supports only what the bench needs and refuses everything else. It exists because a bench on
an emulator would measure the emulator. It ignores signatures, accounts and regions, and keeps nothing when it stops. It
speaks AWS JSON, except on three paths:

    GET /counts         {"sqs": {action: requests}, "sqs_units": {action: requests as billed}, "dynamodb": {…},
                         "updates": {table: updated rows}}
    GET /reset-counts   the same, then starts at 0 again
    GET /queue?url=URL  {"visible": n, "in_flight": n, "delayed": n}
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs, urlsplit

from bench.errors import ApiError
from bench.sqs import Queues
from bench.tables import Tables

if TYPE_CHECKING:
    from bench.queues import Waiting

HOST = "127.0.0.1"

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CONTINUE = re.compile(rb"\r\nexpect: *100-continue", re.IGNORECASE)
TARGET = re.compile(rb"\r\nx-amz-target: *(\w+)\.(\w+)", re.IGNORECASE)

# botocore still expects the error codes that SQS used before it moved from the query protocol to JSON.
QUERY_ERRORS = {"QueueDoesNotExist": "AWS.SimpleQueueService.NonExistentQueue;Sender"}

# json.dumps creates a new encoder for every call with separators.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Server:
    """Both services behind one port."""

    def __init__(self, url: str) -> None:
        self._queues = Queues(url)
        self._tables = Tables()

    def call(self, target: bytes, action: str, body: bytes) -> dict[str, Any] | Waiting:
        request = json.loads(body)
        if target == b"AmazonSQS":
            return self._queues.answer(action, request)
        if target == b"DynamoDB_20120810":
            return self._tables.answer(action, request)
        raise ApiError("UnknownOperationException", f"the stand-in does not support {target.decode()}")

    def control(self, path: str) -> dict[str, Any]:
        parts = urlsplit(path)
        counts = {
            "sqs": dict(self._queues.requests),
            "sqs_units": dict(self._queues.units),
            "dynamodb": dict(self._tables.requests),
            "updates": dict(self._tables.updates),
        }
        if parts.path == "/counts":
            return counts
        if parts.path == "/reset-counts":
            for counter in (self._queues.requests, self._queues.units, self._tables.requests, self._tables.updates):
                counter.clear()
            return counts
        if parts.path == "/queue":
            return self._queues.queue(parse_qs(parts.query)["url"][0]).depths
        raise ApiError("UnknownOperationException", f"the stand-in does not support {parts.path}")


class Connection(asyncio.Protocol):
    """A connection by HTTP/1.1 with keep-alive. Clients send a request only after the answer to the one before."""

    def __init__(self, server: Server, dynamodb_seconds: float) -> None:
        self._server = server
        self._dynamodb_seconds = dynamodb_seconds
        self._delay = 0.0  # of the next answer
        self._received = b""
        self._needed = 0  # bytes of the whole request, once its headers are here
        self._waiting: Waiting | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._waiting.cancel()  # otherwise messages would be given to a client that is gone

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._needed:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            length = CONTENT_LENGTH.search(self._received, 0, end)
            self._needed = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < self._needed and CONTINUE.search(self._received, 0, end):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(self._received) >= self._needed:
            head, _, body = self._received.partition(b"\r\n\r\n")
            self._received, self._needed = b"", 0
            self._handle(head, body)

    def _handle(self, head: bytes, body: bytes) -> None:
        target = TARGET.search(head)
        self._delay = self._dynamodb_seconds if target and target[1].startswith(b"DynamoDB") else 0
        try:
            if target:
                result = self._server.call(target[1], target[2].decode(), body)
            else:
                result = self._server.control(head.split(b" ", 2)[1].decode())
        except ApiError as error:
            self._answer_error(error)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self._answer_error(ApiError("ValidationException", f"the stand-in cannot read the request: {error!r}"))
        else:
            if isinstance(result, dict):
                self._answer(b"200 OK", result)
            else:
                self._waiting = result
                result.add_done_callback(self._on_waited)

    def _on_waited(self, waiting: Waiting) -> None:
        self._waiting = None
        if not waiting.cancelled():
            self._answer(b"200 OK", waiting.result())

    def _answer_error(self, error: ApiError) -> None:
        query_error = QUERY_ERRORS.get(error.code)
        header = f"x-amzn-query-error: {query_error}\r\n".encode() if query_error else b""
        result = {"__type": f"com.amazonaws.sqs#{error.code}", "message": error.message, **error.members}
        self._answer(b"400 Bad Request", result, header)

    def _answer(self, status: bytes, result: dict[str, Any], header: bytes = b"") -> None:
        body = _encode(result).encode()
        answer = b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\n%bContent-Length: %d\r\n\r\n%b" % (
            status,
            header,
            len(body),
            body,
        )
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._transport.write, answer)
        else:
            self._transport.write(answer)


async def serve(port: int, dynamodb_seconds: float) -> None:
    """Serve until SIGINT or SIGTERM. Port 0 takes any free port."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server: Server
    listener = await loop.create_server(lambda: Connection(server, dynamodb_seconds), HOST, port)
    url = f"http://{HOST}:{listener.sockets[0].getsockname()[1]}"
    server = Server(url)
    print(f"ready on {url}", flush=True)
    await stopped.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A stand-in for SQS and DynamoDB that counts requests; bench only.")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; any free port if it is not given")
    parser.add_argument("--latency", type=float, default=0, help="milliseconds that each answer of DynamoDB is late")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.latency / 1000))
