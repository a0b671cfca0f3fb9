"""A server of SES's API v2 that a test tells how to answer.

If it is told nothing, it passes requests on to an emulator, if it has one.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.api_server import ApiServer


class SesServer(ApiServer):
    """Records requests to send, and accepts them unless `error`, `drops`, `hangs` or the emulator says otherwise."""

    def __init__(self, emulator: str = "") -> None:
        super().__init__(_Handler)
        self.emulator = emulator
        self.error: tuple[int, str, str] | None = None  # status, code, text
        self.drops = False
        self.hangs = False
        self.requests: list[dict[str, Any]] = []

    def messages(self) -> list[bytes]:
        """Return the messages that it was asked to send."""
        return [base64.b64decode(request["Content"]["Raw"]["Data"]) for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    server: SesServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(json.loads(body))
        if self.server.hangs:
            self.server.hang()
        if self.server.hangs or self.server.drops:
            self.close_connection = True
        elif self.server.error:
            status, code, text = self.server.error
            self._answer(status, json.dumps({"message": text}).encode(), {"x-amzn-ErrorType": code})
        elif self.server.emulator:
            self._pass_on(body)
        else:
            self._answer(200, json.dumps({"MessageId": str(uuid.uuid4())}).encode(), {})

    def _pass_on(self, body: bytes | None) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        request = urllib.request.Request(self.server.emulator + self.path, body, headers)
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self._answer(answer.status, answer.read(), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in the standard library)
        """Keep the test's output clean."""
