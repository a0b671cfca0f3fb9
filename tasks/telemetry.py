"""Traces and metrics by OpenTelemetry, in the processes that send. This is imported only if they are asked for.

They contain ids, names, statuses and durations, but never an address or content.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from celery.signals import task_failure, worker_process_shutdown
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from emails.providers.contract import PermanentError, TemporaryError
from emails.status import EmailStatus
from settings.telemetry import is_exported, resource
from tasks.pipeline import get_sender
from tasks.task import task_done

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emails.email import Email
    from emails.outcome import Done
    from emails.providers.contract import Provider, Receipt

ENDED = frozenset({EmailStatus.SENT, EmailStatus.FAILED, EmailStatus.UNKNOWN})
# The buckets of OpenTelemetry's HTTP metrics, and EMAIL_PROVIDER_TIMEOUT's default. The SDK's own are for milliseconds.
BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30)


class WatchedProvider:
    """A provider with a span and a measurement around each send."""

    def __init__(self, provider: Provider) -> None:
        self.name = provider.name
        self.longest_send = provider.longest_send
        self.max_message_bytes = provider.max_message_bytes
        self._provider = provider
        self._tracer = trace.get_tracer("email-service")
        self._duration = metrics.get_meter("email-service").create_histogram(
            "email.send.duration",
            unit="s",
            description="How long one attempt at the provider took",
            explicit_bucket_boundaries_advisory=BUCKETS_SECONDS,
        )

    def max_send_rate(self) -> float | None:
        return self._provider.max_send_rate()

    def send(self, email: Email) -> Receipt:
        with self._watch(email):
            return self._provider.send(email)

    @contextmanager
    def _watch(self, email: Email) -> Iterator[None]:
        # An exception's text and traceback may quote the email, so only the kind of result is kept.
        with self._tracer.start_as_current_span(
            f"send {self.name}",
            kind=SpanKind.CLIENT,
            attributes={"email.id": email.id, "email.provider": self.name, "email.attempt": int(email.attempts)},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            result, began = "accepted", time.perf_counter()
            try:
                yield
            except Exception as error:
                result = _result_of(error)
                span.set_status(Status(StatusCode.ERROR, result))
                raise
            finally:
                span.set_attribute("email.outcome", result)
                labels = {"email.provider": self.name, "email.outcome": result}
                self._duration.record(time.perf_counter() - began, labels)


def _result_of(error: Exception) -> str:
    """Return the kind of result as the Sender judges it. After an unexpected error, it is unknown what was sent."""
    if isinstance(error, TemporaryError):
        return "temporary"
    return "permanent" if isinstance(error, PermanentError) else "unknown"


@cache
def start() -> None:
    """Export what this process does from now on by OTLP over HTTP, as the standard OTEL_* variables say."""
    here = resource()
    # Spans get no events, because the instrumentation records exceptions as events, and their text may quote an email.
    tracers = TracerProvider(resource=here, span_limits=SpanLimits(max_events=0))
    if is_exported("TRACES"):
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if is_exported("METRICS") else []
    meters = MeterProvider(readers, resource=here)
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]  # its types are incomplete

    emails = metrics.get_meter("email-service").create_counter(
        "email.outcomes", description="Emails that a worker finished: Sent, Failed or Unknown"
    )

    @task_done.connect(weak=False)
    def count(outcome: Done, **_: Any) -> None:
        if outcome.status in ENDED:
            emails.add(1, {"email.status": outcome.status, "email.provider": outcome.provider or "none"})

    @task_failure.connect(weak=False)
    def name_the_error(exception: BaseException, **_: Any) -> None:
        """Replace the status that the instrumentation has set, because it contains the exception's text."""
        trace.get_current_span().set_status(Status(StatusCode.ERROR, type(exception).__name__))

    @worker_process_shutdown.connect(weak=False)
    def export_the_rest(**_: Any) -> None:
        """Export what is left. The SDK does this in an exit handler, but a pool's process does not run any."""
        tracers.shutdown()
        meters.shutdown()

    get_sender().watch(WatchedProvider)
