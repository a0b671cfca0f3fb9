"""A proxy in front of the emulator, by which a test decides what happens to each request."""

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
    """The connection is to be closed, and the request is not to be forwarded."""


class Unanswered(Exception):
    """The request is to be forwarded, but the connection is to be closed without an answer."""


class Proxy(ThreadingHTTPServer):
    """Forwards a request if `meddle(service, action, body)` returns "".

    If `meddle` returns the code of an AWS error, that is the answer. It may also raise Dropped or Unanswered. A GET is
    taken for a request to S3, and its action is its path.
    """

    def __init__(self, upstream: str, meddle: Callable[[str, str, bytes], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.upstream = urlsplit(upstream).netloc
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.meddle = meddle

    def handle_error(self, *_: object) -> None:
        """Ignore errors, because a client that was killed needs no answer."""


class _Forward(BaseHTTPRequestHandler):
    """A connection to the proxy."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # send answers in one piece: two would wait for each other (Nagle, delayed ACK)
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
    """Serve in a thread until the context is left."""
    with proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
