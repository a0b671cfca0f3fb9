"""Flower's pages in headless Chromium: real workers, real Flowers, the emulator."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.error import URLError

import boto3
import pytest
from playwright.sync_api import sync_playwright

from emails.resources import provision
from settings import Settings
from settings.aws import client
from settings.model import dead_letter_queue
from tests.conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_sqs import SQSClient
    from playwright.sync_api import Browser, Page

    Scheme = Literal["light", "dark"]
    StartService = Callable[[str], "Service"]
    OpenPage = Callable[..., Page]

pytestmark = pytest.mark.slow

IMAGES = Path(__file__).parents[2] / "docs" / "images"

# Without it Flower refuses what its pages' buttons ask for.
USER, PASSWORD = "ada", "secret"


class Service:
    """One stage, with the workers and Flowers that a test starts; they end with it."""

    def __init__(self, emulator: str, stage: str, folder: Path, wait_until: Callable[..., None]) -> None:
        self.settings = Settings(endpoint_url=emulator, stage=stage)
        list(provision(self.settings))
        self.sqs: SQSClient = client("sqs", self.settings)
        self._environment = {"EMAIL_ENDPOINT_URL": emulator, "EMAIL_STAGE": stage}
        self._folder = folder
        self._wait_until = wait_until
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start_worker(self, name: str, *arguments: str) -> str:
        """Start a worker, and give its hostname when it is ready."""
        hostname = f"{name}@localhost"
        self._start(name, "worker", "--loglevel", "INFO", "--hostname", hostname, *arguments)
        self._wait_for(name, lambda: "ready." in self.log(name))
        return hostname

    def start_flower(self, name: str) -> str:
        """Start a Flower, and give its URL when it answers."""
        port = free_port()
        self._start(name, "flower", f"--port={port}", f"--basic-auth={USER}:{PASSWORD}")
        url = f"http://127.0.0.1:{port}"
        self._wait_for(name, lambda: answers(f"{url}/healthcheck"))
        return url

    def send(self, queue: str, count: int, delay: int = 0) -> None:
        url = self.sqs.get_queue_url(QueueName=queue)["QueueUrl"]
        for _ in range(count):
            self.sqs.send_message(QueueUrl=url, MessageBody='{"email_id": "nobody"}', DelaySeconds=delay)

    def report_age(self, queue: str, seconds: float) -> None:
        """Tell CloudWatch how old the queue's oldest message is, as SQS does but the emulator does not."""
        cloudwatch = boto3.client(
            "cloudwatch",
            endpoint_url=self.settings.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        cloudwatch.put_metric_data(
            Namespace="AWS/SQS",
            MetricData=[
                {
                    "MetricName": "ApproximateAgeOfOldestMessage",
                    "Dimensions": [{"Name": "QueueName", "Value": queue}],
                    "Value": seconds,
                }
            ],
        )
        cloudwatch.close()

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(30)
        self.sqs.close()

    def _start(self, name: str, *arguments: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
                env=os.environ | self._environment,
                stdout=log,
                stderr=log,
            )

    def _wait_for(self, name: str, condition: Callable[[], bool]) -> None:
        process = self.processes[name]
        self._wait_until(lambda: condition() or process.poll() is not None, what=f"{name} is ready")
        assert process.poll() is None, self.log(name)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except URLError:
        return False
    return True


@pytest.fixture
def start_service(emulator: str, tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[StartService]:
    """A stage by its name, which the screenshots show."""
    with ExitStack() as started:

        def start(stage: str) -> Service:
            service = Service(emulator, stage, tmp_path, wait_until)
            started.callback(service.stop)
            return service

        yield start


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: Playwright's own would come from elsewhere than PyPI."""
    program = shutil.which("chromium")
    assert program, "there is no chromium here: apt-get install chromium"
    with sync_playwright() as playwright:
        # Chromium has no sandbox for root, and these pages are our own.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open a URL as somebody who knows the password and likes it light or dark."""
    with ExitStack() as opened:

        def open_url(url: str, scheme: Scheme = "light") -> Page:
            context = browser.new_context(
                color_scheme=scheme,
                http_credentials={"username": USER, "password": PASSWORD},
                viewport={"width": 1200, "height": 320},
            )
            opened.callback(context.close)
            page = context.new_page()
            page.goto(url)
            return page

        yield open_url


def cells(page: Page, table: str) -> list[list[str]]:
    """What the table's rows show."""
    rows = page.locator(f"{table} tbody tr").all()
    return [[text.strip() for text in row.locator("td").all_inner_texts()] for row in rows]


def shoot(page: Page, name: str) -> None:
    """Take a screenshot for the docs, without what differs from run to run."""
    page.screenshot(path=IMAGES / f"{name}.png", style=".broker-url { display: none }")


def test_the_broker_tab_shows_each_queue(start_service: StartService, open_page: OpenPage) -> None:
    service = start_service("production")
    settings = service.settings
    service.start_worker("worker-1", "--queues", settings.tasks_queue)
    service.send(settings.queue, 12)
    service.sqs.receive_message(
        QueueUrl=service.sqs.get_queue_url(QueueName=settings.queue)["QueueUrl"], MaxNumberOfMessages=4
    )
    service.send(settings.queue, 3, delay=900)
    service.send(dead_letter_queue(settings.queue), 2)
    service.report_age(settings.queue, 190)
    url = service.start_flower("flower-1")
    images: dict[Scheme, str] = {"light": "flower-broker", "dark": "flower-broker-dark"}
    for scheme, image in images.items():
        page = open_page(f"{url}/broker", scheme)
        assert cells(page, "#queue-table") == [
            ["emails_production", "8", "4", "3", "2", "3m 10s"],
            ["emails_production_bulk", "0", "0", "0", "0", "—"],
            ["emails_production_tasks", "0", "0", "0", "0", "—"],
        ]
        assert page.locator(".broker-url").inner_text() == f"{settings.endpoint} us-east-1"
        assert page.evaluate("document.documentElement.dataset.bsTheme") == scheme
        shoot(page, image)
    assert not answers(f"{url.replace('127.0.0.1', '127.0.0.2')}/healthcheck")  # as it would on all interfaces
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as metrics:
        assert b"flower_events_total" in metrics.read()


def test_the_broker_tab_says_which_queue_is_not_there(start_service: StartService, open_page: OpenPage) -> None:
    service = start_service("lost")
    url = service.start_flower("flower-1")
    queue = service.sqs.get_queue_url(QueueName=service.settings.queue)["QueueUrl"]
    service.sqs.delete_queue(QueueUrl=queue)
    page = open_page(f"{url}/broker")
    lost, _, tasks = cells(page, "#queue-table")
    assert lost == ["emails_lost\n\nQueue with name 'emails_lost' doesn't exist in SQS", "—", "—", "—", "—", "—"]
    assert tasks == ["emails_lost_tasks", "0", "0", "0", "0", "—"]
