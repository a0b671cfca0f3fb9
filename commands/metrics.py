"""Export the figures of the queues: one process a stage, since every worker would ask SQS for the same."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from celery_sqs.sqs.oldest_message import ages_of_oldest_messages
from commands import say
from emails.resources import check_resources, find_queue
from settings import get_settings
from settings.aws import client
from settings.model import dead_letter_queue
from settings.telemetry import is_exported, resource

if TYPE_CHECKING:
    from collections.abc import Iterator


@click.command()
def metrics() -> None:
    """Export how many messages each queue and its dead letters have, and how old the oldest is, by OTLP.

    One process a stage is enough; it runs until it is stopped. It asks SQS once a queue and export, and once for all
    CloudWatch, which alone knows the ages; an export is every minute unless OTEL_METRIC_EXPORT_INTERVAL (milliseconds)
    says otherwise. OTEL_EXPORTER_OTLP_ENDPOINT names the collector.
    """
    if not is_exported("METRICS"):
        raise click.ClickException(
            "OTEL_EXPORTER_OTLP_ENDPOINT names no collector (http://localhost:4318), or another OTEL_* variable turns "
            "metrics off."
        )
    try:
        from opentelemetry.metrics import Observation  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError:
        raise click.ClickException("The extra `telemetry` is not installed: uv sync --extra telemetry") from None
    settings = get_settings()
    check_resources(settings)
    sqs, cloudwatch = client("sqs", settings), client("cloudwatch", settings)
    names = [name for queue in settings.queues for name in (queue, dead_letter_queue(queue))]
    queues = [find_queue(sqs, name) for name in names]

    def observe(_options: object) -> Iterator[Observation]:
        for queue in queues:
            ready, in_flight, delayed = queue.depths()
            for state, count in {"ready": ready, "unacknowledged": in_flight, "delayed": delayed}.items():
                yield Observation(count, {"email.queue": queue.name, "email.state": state})

    def observe_ages(_options: object) -> Iterator[Observation]:
        for name, seconds in ages_of_oldest_messages(cloudwatch, names).items():
            yield Observation(seconds, {"email.queue": name})

    # Before there are threads, which inherit it: sigwait wants the signals for itself.
    stop = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    provider = _meter_provider()
    meter = provider.get_meter("email-service")
    meter.create_observable_gauge(
        "email.queue.messages", [observe], description="Messages in a queue, as approximate as SQS's figures"
    )
    meter.create_observable_gauge(
        "email.queue.oldest_message.age",
        [observe_ages],
        unit="s",
        description="How old a queue's oldest message is, as late as CloudWatch tells it",
    )
    say(f"exporting the figures of {', '.join(names)}")
    signal.sigwait(stop)
    provider.shutdown()


def _meter_provider() -> Any:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 (an extra)
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 (an extra)
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415 (an extra)

    return MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource())
