"""Runs `email-service webhooks` as a process of its own, and sends requests to it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.webhooks import secrets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emails.webhooks.request import WebhookRequest
    from settings import Settings


class Running:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout
        self.line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+) ", self.line)
        assert found, self.line
        self.port = int(found[1])

    def request(self, method: str, path: str, request: WebhookRequest) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, request.body, dict(request.headers))
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer

    def post(self, provider: str, request: WebhookRequest) -> int:
        return self.request("POST", f"/webhooks/{provider}", request).status


@contextmanager
def running(settings: Settings, **changed: str) -> Iterator[Running]:
    environment = os.environ | settings.environment()
    environment |= {f"EMAIL_{name.upper()}": value for name, value in (changed or secrets()).items()}
    program = Path(sys.executable).with_name("email-service")
    process = subprocess.Popen([program, "webhooks", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield Running(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
