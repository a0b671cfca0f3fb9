"""Traces and metrics of a real worker, as a collector receives them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tasks.start import observe_process
from tests.support.collector import Collector, attributes, running_collector
from tests.support.pipeline import Pipeline, another_program, running_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

Row = dict[str, Any]
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": {"DataType": "String", "StringValue": f"00-{TRACE}-{SPAN}-01"}}
MARK = "planted"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def observed(
    emulator: str, collector: Collector, tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]
) -> Iterator[Pipeline]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    with running_worker(emulator, tmp_path_factory.mktemp("observed"), environment) as worker:
        yield Pipeline(worker, wait_until)
        worker.process.kill()  # nobody needs its last export


def test_how_emails_end_and_what_sends_take_is_counted(observed: Pipeline, collector: Collector, row: Row) -> None:
    """This must be the first test in the file, because emails of other tests would be counted, too."""
    recipients = ["ada@example.com", "permanent@example.com", "silent@example.com"]
    rows = [{**row, "EmailId": f"{row['EmailId']}-{to}", "RecipientsTo": [to]} for to in recipients]
    rows.append({**row, "EmailId": f"{row['EmailId']}-invalid", "RecipientsTo": ["nobody"]})
    for each in rows:
        observed.store.put(each)
    observed.enqueue(*(each["EmailId"] for each in rows))
    ended = {("stub", "Sent"): 1, ("stub", "Failed"): 1, ("stub", "Unknown"): 1, ("none", "Failed"): 1}
    observed.wait_until(lambda: collector.metric("email.outcomes") == ended)
    sends = {("accepted", "stub"): 1, ("permanent", "stub"): 1, ("unknown", "stub"): 1}
    assert collector.metric("email.send.duration") == sends


def test_one_trace_leads_from_the_producer_through_every_retry_to_the_provider(
    observed: Pipeline, collector: Collector, row: Row
) -> None:
    row["RecipientsTo"] = ["temporary@example.com"]
    observed.store.put(row)
    observed.send_raw(json.dumps({"email_id": row["EmailId"]}), MessageAttributes=TRACEPARENT)
    observed.wait_until(lambda: observed.status(row) == "Sent")

    def trace() -> list[Any]:
        return [span for span in collector.spans() if span.trace_id.hex() == TRACE]

    observed.wait_until(lambda: sum(span.name == "run/tasks.send_email" for span in trace()) == 2)
    names = {span.span_id: span.name for span in trace()} | {bytes.fromhex(SPAN): "the producer"}
    assert sorted((names[span.parent_span_id], span.name) for span in trace()) == [
        ("apply_async/tasks.load_email", "run/tasks.load_email"),
        ("apply_async/tasks.send_email", "run/tasks.send_email"),
        ("apply_async/tasks.send_email", "run/tasks.send_email"),
        ("run/tasks.bridge", "apply_async/tasks.load_email"),
        ("run/tasks.load_email", "apply_async/tasks.send_email"),
        ("run/tasks.send_email", "apply_async/tasks.send_email"),
        ("run/tasks.send_email", "send stub"),
        ("run/tasks.send_email", "send stub"),
        ("the producer", "run/tasks.bridge"),
    ]
    sends = [attributes(span) for span in trace() if span.name == "send stub"]
    assert sorted(sends, key=lambda send: send["email.attempt"]) == [
        {"email.id": row["EmailId"], "email.provider": "stub", "email.attempt": attempt, "email.outcome": outcome}
        for attempt, outcome in [("1", "temporary"), ("2", "accepted")]
    ]


def test_nothing_of_an_email_but_its_id_leaves(observed: Pipeline, collector: Collector, row: Row) -> None:
    private = {
        "Subject": MARK,
        "Sender": f"{MARK} <{MARK}@{MARK}.example>",
        "RecipientsTo": [f"{MARK}@example.com"],
        "BodyText": MARK,
        "Headers": {"X-Shop": MARK},
        "Tags": {"shop": MARK},
    }
    invalid = {**row, **private, "EmailId": f"{row['EmailId']}-invalid", "Sender": f"{MARK} {MARK}"}
    for each in (invalid, row | private):
        observed.store.put(each)
        observed.send_raw(
            json.dumps({"email_id": each["EmailId"], "note": MARK}),
            MessageAttributes={
                **TRACEPARENT,
                "baggage": {"DataType": "String", "StringValue": f"user={MARK}"},
                "note": {"DataType": "String", "StringValue": MARK},
            },
        )
    # The task raises an error that names the argument it does not know.
    program = another_program(observed.settings, transport="sqs")
    program.conf.task_create_missing_queues = True
    program.send_task("tasks.send_email", [row["EmailId"]], {MARK: 1}, queue=observed.settings.tasks_queue)
    observed.wait_until(lambda: observed.status(row) == "Sent" and observed.status(invalid) == "Failed")
    observed.wait_until(lambda: row["EmailId"] in {attributes(span).get("email.id") for span in collector.spans()})
    observed.wait_until(lambda: "Unforeseen" in {span.status.message for span in collector.spans()})
    sent = [body for bodies in collector.bodies.values() for body in bodies]
    assert sent
    assert not [body for body in sent if MARK.encode() in body]


def test_a_worker_imports_no_opentelemetry_unless_it_is_asked_to() -> None:
    code = (
        "import os, sys, tasks, tasks.start\n"
        "tasks.app.loader.import_default_modules()\n"
        "tasks.start.observe_process()\n"
        "os.environ |= {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:9', 'OTEL_SDK_DISABLED': 'true'}\n"
        "tasks.start.observe_process()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert ran.stdout.decode().strip() == "[]"


def test_a_worker_without_the_extra_says_that_it_observes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    observe_process()
    assert "the extra `telemetry` is not installed" in capsys.readouterr().err
