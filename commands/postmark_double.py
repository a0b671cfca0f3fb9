"""Stands in for Postmark in the demo: it accepts every email, and then reports its delivery as Postmark does."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
TRIES, BETWEEN_SECONDS = 50, 0.2


class PostmarkDouble(ThreadingHTTPServer):
    """Its API is at `url`. `webhook` is where it reports, with `login` (user:password) as HTTP basic auth."""

    daemon_threads = True

    def __init__(self, webhook: str, login: str) -> None:
        super().__init__((HOST, 0), _Api)
        self.url = f"http://{HOST}:{self.server_port}/"
        self._webhook = webhook
        self._authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._reporters = ThreadPoolExecutor(4)

    def report(self, email: dict[str, Any], message_id: str) -> None:
        """Report the delivery. Source: Postmark's documentation, "Delivery webhook"."""
        report = {
            "RecordType": "Delivery",
            "MessageID": message_id,
            "MessageStream": "outbound",
            "Recipient": email["To"],
            "DeliveredAt": datetime.now(UTC).isoformat(timespec="seconds"),
            "Details": "250 2.0.0 OK",
            "Metadata": email.get("Metadata", {}),
        }
        self._reporters.submit(self._post, json.dumps(report).encode())

    def _post(self, body: bytes) -> None:
        headers = {"Content-Type": "application/json", "Authorization": self._authorization}
        request = urllib.request.Request(self._webhook, body, headers)  # noqa: S310 (the demo's own address)
        for _ in range(TRIES):  # Postmark tries again too, but not as soon
            try:
                urllib.request.urlopen(request, timeout=10).close()  # noqa: S310 (as above)
            except OSError:
                time.sleep(BETWEEN_SECONDS)
            else:
                return


class _Api(BaseHTTPRequestHandler):
    """A request to send. Source: Postmark's documentation, "Send a single email"."""

    protocol_version = "HTTP/1.1"
    server: PostmarkDouble

    def do_POST(self) -> None:
        email = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message_id = str(uuid.uuid4())
        answer = {
            "To": email["To"],
            "SubmittedAt": datetime.now(UTC).isoformat(),
            "MessageID": message_id,
            "ErrorCode": 0,
            "Message": "OK",
        }
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.server.report(email, message_id)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_postmark(webhook: str, login: str) -> Iterator[PostmarkDouble]:
    with PostmarkDouble(webhook, login) as double:
        thread = threading.Thread(target=double.serve_forever)
        thread.start()
        try:
            yield double
        finally:
            double.shutdown()
            thread.join()
