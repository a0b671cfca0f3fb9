"""Flower with real workers on a stage of its own, and what a browser shows of its pages."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.error import URLError

from playwright.sync_api import expect

from emails.store import EmailStore
from settings.aws import client
from tests.conftest import free_port
from tests.support.celery_programs import kill, start_celery
from tests.support.stage import environment_of, new_stage

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from mypy_boto3_sqs import SQSClient
    from playwright.sync_api import Page

Scheme = Literal["light", "dark"]

FOLDER = "SCREENSHOTS"  # the variable that names the folder for screenshots, such as docs/images

expect.set_options(timeout=60_000)

# Without a password, Flower refuses the requests that its pages' buttons make.
USER, PASSWORD = "ada", "secret"


class Service:
    """One stage, with the workers and Flowers that a test starts. They end with it."""

    def __init__(
        self, emulator: str, stage: str, folder: Path, wait_until: Callable[..., None], **environment: str
    ) -> None:
        self.settings = new_stage(emulator, stage)
        self.sqs: SQSClient = client("sqs", self.settings)
        self.store = EmailStore.from_settings(self.settings)
        self._environment = environment_of(self.settings, **environment)
        self._folder = folder
        self.wait_until = wait_until
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._signs: dict[str, Callable[[], bool]] = {}

    def start_worker(self, name: str, *arguments: str) -> str:
        """Start a worker, and return its hostname."""
        hostname = f"{name}@localhost"
        self._start(name, "worker", "--loglevel", "INFO", "--hostname", hostname, *arguments)
        self._signs[name] = lambda: "ready." in self.log(name)
        return hostname

    def start_flower(self, name: str, *, password: bool = True, **environment: str) -> str:
        """Start a Flower, and return its URL."""
        port = free_port()
        authentication = [f"--basic-auth={USER}:{PASSWORD}"] if password else []
        self._start(name, "flower", f"--port={port}", *authentication, **environment)
        url = f"http://127.0.0.1:{port}"
        self._signs[name] = lambda: answers(f"{url}/healthcheck")
        return url

    def wait_until_ready(self) -> None:
        for name, process in self.processes.items():
            self.wait_until(lambda n=name, p=process: self._signs[n]() or p.poll() is not None, what=f"{name} is ready")
            assert process.poll() is None, self.log(name)

    def send(self, queue: str, body: str, delay: int = 0) -> str:
        url = self.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        return self.sqs.send_message(QueueUrl=url, MessageBody=body, DelaySeconds=delay)["MessageId"]

    def send_email(self, row: dict[str, Any], **notes: str) -> str:
        """Put the row and enqueue its id. Return the id of its bridge task."""
        self.store.put(row)
        return self.send(self.settings.queue, json.dumps({"email_id": row["EmailId"], **notes}))

    def status(self, email_id: str) -> tuple[str, str]:
        row = self.store.get(email_id) or {}
        return row["EmailStatus"], row.get("FailureReason", "")

    def control_queues(self) -> list[str]:
        return self.sqs.list_queues(QueueNamePrefix=self.settings.control_queue_prefix).get("QueueUrls", [])

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def stop(self, *names: str) -> None:
        """Stop a program as an operator would."""
        stopping = [self.processes.pop(name) for name in names or tuple(self.processes)]
        for process in stopping:
            process.send_signal(signal.SIGTERM)
        for process in stopping:
            try:
                assert process.wait(60) == 0
            finally:
                kill(process)

    def _start(self, name: str, *arguments: str, **environment: str) -> None:
        log_file = self._folder / f"{name}.log"
        own = self._environment | environment
        self.processes[name] = start_celery(*arguments, log_file=log_file, environment=own)


def answers(url: str) -> bool:
    try:
        fetch(url)
    except URLError:
        return False
    return True


def fetch(url: str) -> str:
    """Return a page or a response of the API to somebody who knows the password."""
    credentials = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {credentials}"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(response.read().decode())


def states(url: str) -> dict[str, str]:
    """Return the tasks that a Flower knows: `<task> <email id, or the bridge's own id>` and its state."""
    found = {}
    for task_id, task in json.loads(fetch(f"{url}/api/tasks")).items():
        email_id = re.match(r"\('([^']+)'", task["args"] or "")
        found[f"{task['name']} {email_id[1] if email_id else task_id}"] = task["state"]
    return found


def online(url: str) -> set[str]:
    """Return the workers that a Flower shows as online."""
    return {worker["hostname"] for worker in json.loads(fetch(f"{url}/workers?json=1"))["data"] if worker["status"]}


def cells(page: Page, table: str) -> list[list[str]]:
    """Return the text of the cells in each row of the table."""
    rows = page.locator(f"{table} tbody tr").all()
    return [[text.strip() for text in row.locator("td").all_inner_texts()] for row in rows]


def shoot(page: Page, name: str) -> None:
    """Take a screenshot for the docs, if somebody asked for new ones."""
    if FOLDER in os.environ:
        path = Path(os.environ[FOLDER]) / f"{name}.png"
        page.screenshot(path=path, style=".broker-url { display: none }", animations="disabled")


BOTH: tuple[Scheme, Scheme] = ("light", "dark")


def suffix(scheme: Scheme) -> str:
    return "-dark" if scheme == "dark" else ""


def details(page: Page) -> dict[str, str]:
    names, values = page.locator(".detail-list dt").all_inner_texts(), page.locator(".detail-list dd").all_inner_texts()
    return {name: value.strip() for name, value in zip(names, values, strict=True)}
