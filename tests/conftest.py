"""Fixtures of all tests. Each test process has one emulator, and each test has its own queues and tables in it."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import time
import uuid
from contextlib import ExitStack
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import pytest

from commands.emulator import running_emulator
from emails.providers import GROUP
from emails.raw_queue import find_raw_queue
from emails.store import EmailStore, EventStore
from emails.webhooks.settings import WebhookSettings
from settings import EnvironmentSettings, Settings, get_settings
from settings.aws import client
from settings.model import dead_letter_queue
from tests.support.sqs import leave_control_queue
from tests.support.stage import new_stage, pending_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mypy_boto3_sqs import SQSClient
    from playwright.sync_api import Browser, Page

    from celery_sqs.sqs.queue import Queue
    from tests.support.flower import Scheme, Service

logging.getLogger("botocore").setLevel(logging.INFO)

for _provider in entry_points(group=GROUP):
    _provider.load()
assert WebhookSettings  # so that it is among the subclasses
# The settings classes of the service, of each of its providers, and of webhooks.
SETTINGS_MODELS = [model for model in EnvironmentSettings.__subclasses__() if not model.__module__.startswith("tests.")]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def emulator() -> Iterator[str]:
    """The URL of an emulator of SQS and DynamoDB."""
    with running_emulator(free_port()) as url:
        yield url


@pytest.fixture
def free_endpoint() -> str:
    """An endpoint at which nothing listens. Its port was free a moment ago, but it is not reserved."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in list(os.environ):
        if name.startswith("EMAIL_") or name in (
            "AWS_REGION",
            "AWS_ENDPOINT_URL",
            "QUEUE_URL",
            "DYNAMO_TABLE",
            "HINTS_FOR",
        ):
            monkeypatch.delenv(name)
    for model in SETTINGS_MODELS:
        monkeypatch.setitem(model.model_config, "env_file", None)
    monkeypatch.setattr("settings.model._overrides", {})
    get_settings.cache_clear()


@pytest.fixture
def _far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be in India, because machines that run tests are often in UTC, where code that takes local time seems to work."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture(autouse=True)
def _no_outbox_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests from writing emails to `outbox` in the folder in which they run."""
    monkeypatch.setattr("emails.providers.stub.LOCAL_OUTBOX", None)


@pytest.fixture(autouse=True)
def _no_pause_of_the_last_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """End the pause in which a denied queue keeps the whole process from receiving."""
    monkeypatch.setattr("celery_sqs.poller.pause._until", 0.0)


@pytest.fixture(autouse=True)
def _no_wait_for_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for dead letters, because the emulator, unlike SQS, returns all of them in a short poll."""
    monkeypatch.setattr("emails.dead_letters.WAIT_SECONDS", 0)


@pytest.fixture
def settings(emulator: str) -> Settings:
    """The settings of a new stage."""
    return new_stage(emulator)


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the environment name the test's own stage."""
    monkeypatch.setenv("EMAIL_ENDPOINT_URL", settings.endpoint or "")
    monkeypatch.setenv("EMAIL_STAGE", settings.stage)
    get_settings.cache_clear()


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[EnvironmentSettings], None]:
    """Return a function that puts settings into the environment, as for a child process."""

    def put(settings: EnvironmentSettings) -> None:
        for name, value in settings.environment().items():
            monkeypatch.setenv(name, value)

    return put


@pytest.fixture
def sqs(settings: Settings) -> SQSClient:
    return client("sqs", settings)


@pytest.fixture
def store(settings: Settings) -> EmailStore:
    return EmailStore.from_settings(settings)


@pytest.fixture
def events(settings: Settings) -> EventStore:
    return EventStore.from_settings(settings)


@pytest.fixture
def raw_queue(settings: Settings) -> Queue:
    return find_raw_queue(settings)


@pytest.fixture
def put_dead_letter(sqs: SQSClient) -> Callable[..., str]:
    """Return a function that sends a message to a queue's dead-letter queue and returns its MessageId."""

    def send(queue: str, body: str, attributes: dict[str, str] | None = None, **parameters: str) -> str:
        url = sqs.get_queue_url(QueueName=dead_letter_queue(queue))["QueueUrl"]
        typed = {name: {"DataType": "String", "StringValue": text} for name, text in (attributes or {}).items()}
        return sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=typed, **parameters)["MessageId"]  # type: ignore[arg-type]  # for FIFO queues

    return send


@pytest.fixture
def left_by_a_crash(sqs: SQSClient, settings: Settings) -> str:
    """The name of a control queue that a crashed process left behind, with an expired lease."""
    return leave_control_queue(sqs, settings.control_queue_prefix)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """Return a function that waits for a condition, or fails and says which."""

    def wait(condition: Callable[[], object], seconds: float = 60, what: str = "") -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
            time.sleep(0.02)

    return wait


@pytest.fixture
def row() -> dict[str, object]:
    """A row that can be sent."""
    return pending_row(f"email-{uuid.uuid4().hex[:8]}")


# Flower in a browser


@pytest.fixture
def start_service(emulator: str, tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[Callable[..., Service]]:
    """Return a function that creates a stage on which programs can be started. The screenshots show its name."""
    from tests.support.flower import Service  # noqa: PLC0415 (it imports playwright, which not every machine has)

    with ExitStack() as started:

        def start(stage: str, **environment: str) -> Service:
            service = Service(emulator, stage, tmp_path, wait_until, **environment)
            started.callback(service.stop)
            return service

        yield start


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium. Playwright's own would be downloaded from a server other than PyPI."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 (not every machine has it)

    program = shutil.which("chromium")
    assert program, "there is no chromium here: apt-get install chromium"
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root, and the pages are our own.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens a URL as somebody who knows the password."""
    from tests.support.flower import PASSWORD, USER  # noqa: PLC0415 (as above)

    with ExitStack() as opened:

        def open_url(url: str, scheme: Scheme = "light", height: int = 320, width: int = 1200) -> Page:
            context = browser.new_context(
                color_scheme=scheme,
                http_credentials={"username": USER, "password": PASSWORD},
                viewport={"width": width, "height": height},
            )
            context.set_default_timeout(60_000)
            opened.callback(context.close)
            page = context.new_page()
            page.goto(url)
            return page

        yield open_url
