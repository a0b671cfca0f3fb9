"""A proxy before the emulator, that a test tells what becomes of a request."""

from __future__ import annotations

import json
import threading
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Dropped(Exception):
    """The request is not to be forwarded, and the connection closed."""


class Unanswered(Exception):
    """The request is to be forwarded, and the connection closed without an answer."""


class Proxy(ThreadingHTTPServer):
    """`meddle(service, action, body)` raises Dropped or Unanswered, or returns AWS's error code, or "" to forward it.

    S3 is asked by GET, and has no other action than the path.
    """

    def __init__(self, upstream: str, meddle: Callable[[str, str, bytes], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.meddle = meddle

    def handle_error(self, *_: object) -> None:
        """A client that was killed has no use for an answer."""


class _Forward(BaseHTTPRequestHandler):
    """One connection to the proxy."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: two would wait for each other (Nagle, delayed ACK)
    server: Proxy

    def do_GET(self) -> None:
        self._forward("S3", self.path)

    def do_POST(self) -> None:
        service, _, action = self.headers.get("X-Amz-Target", "").partition(".")
        self._forward(service, action)

    def _forward(self, service: str, action: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        unanswered = False
        code = ""
        try:
            code = self.server.meddle(service, action, body)
        except Dropped:
            self.close_connection = True
            return
        except Unanswered:
            unanswered = self.close_connection = True
        if code:
            error = {"__type": code, "message": "by the proxy"}
            self._answer(403, {"x-amzn-query-error": f"{code};Sender"}, json.dumps(error).encode())
            return
        with closing(HTTPConnection(self.server.upstream)) as connection:
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
        if not unanswered:
            self._answer(answer.status, answer.headers, content)

    def _answer(self, status: int, headers: Any, content: bytes) -> None:
        self.send_response(status)
        for name in ("Content-Type", "x-amzn-query-error", "x-amz-crc32"):
            if value := headers.get(name):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(proxy: Proxy) -> Iterator[Proxy]:
    """Serve in a thread, until the context is left."""
    with proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
