"""The figures about the queues, as a collector receives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import pytest

from commands.metrics import _count_emails
from emails.pause import StagePause
from emails.raw_queue import enqueue_ids
from emails.status import DISCARD
from emails.store import Attention
from settings.model import dead_letter_queue
from tests.support.collector import running_collector
from tests.support.sqs import report_age
from tests.support.stage import pending_row, without_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result
    from mypy_boto3_sqs import SQSClient

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore
    from settings import Settings


@pytest.fixture
def three_need_a_person(store: EmailStore) -> None:
    for number in range(3):
        store.put(pending_row(f"order-{number}"))
    for number in range(2):
        store.end(f"order-{number}", DISCARD, "no")
    store.mark_unknown(store.claim("order-2", lease=60), "no answer")


def test_queues_and_emails_that_need_a_person_are_counted_until_it_is_stopped(  # noqa: PLR0913, PLR0917 (fixtures)
    environment: None,
    three_need_a_person: None,
    raw_queue: Queue,
    sqs: SQSClient,
    settings: Settings,
    wait_until: Callable[..., None],
) -> None:
    enqueue_ids(raw_queue, ["a", "b"])
    dead = dead_letter_queue(settings.queue)
    sqs.send_message(QueueUrl=sqs.get_queue_url(QueueName=dead)["QueueUrl"], MessageBody="x", DelaySeconds=900)
    StagePause.from_settings(settings).begin("ada", "provider down")
    report_age(settings.endpoint or "", settings.queue, 190)
    with running_collector() as collector:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("email-service"), "metrics"],
            env=os.environ
            | {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
                "OTEL_METRIC_EXPORT_INTERVAL": "50",
            },
        )
        try:
            wait_until(lambda: collector.metric("email.queue.messages"))
            figures = collector.metric("email.queue.messages")
            wait_until(lambda: collector.metric("email.queue.oldest_message.age"))
            ages = collector.metric("email.queue.oldest_message.age")
            wait_until(lambda: collector.metric("email.attention"))
            emails = collector.metric("email.attention")
            wait_until(lambda: collector.metric("email.stage.paused"))
            paused = collector.metric("email.stage.paused")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert emails == {("Failed",): 2, ("Unknown",): 1}
    queues = [name for queue in settings.queues for name in (queue, dead_letter_queue(queue))]
    assert paused == {(settings.stage,): 1}
    assert ages == {(settings.queue,): 190}
    assert figures == {(name, state): 0 for name in queues for state in ("ready", "unacknowledged", "delayed")} | {
        (settings.queue, "ready"): 2,
        (dead, "delayed"): 1,
    }


def test_without_the_index_there_is_no_figure_of_emails_and_it_says_so(
    run: Callable[..., Result], three_need_a_person: None, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = Attention.from_settings(settings)
    assert _count_emails(attention) == {"Failed": 2, "Unknown": 1}
    without_index(settings)
    assert _count_emails(attention) == {}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("commands.metrics.signal", MagicMock())
    monkeypatch.setattr("commands.metrics._meter_provider", MagicMock())
    assert f"{settings.table} has no index yet" in run("metrics").stderr


def test_without_a_collector_it_says_what_to_set(run: Callable[..., Result]) -> None:
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in run("metrics").output


def test_without_the_extra_it_says_what_to_install(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    assert "uv sync --extra telemetry" in run("metrics").output
