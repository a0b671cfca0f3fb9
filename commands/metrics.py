"""The command that exports metrics of the queues and of the emails that need a person.

It is a separate process, one per stage, because every worker would ask AWS for the same figures.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from celery_sqs.sqs.oldest_message import ages_of_oldest_messages
from commands import say
from emails.hints import hint
from emails.pause import StagePause
from emails.resources import check_resources, find_queue
from emails.status import NEEDS_PERSON
from emails.store import Attention, IndexMissing
from emails.store.items import StoreDenied
from settings import get_settings
from settings.aws import client
from settings.model import dead_letter_queue
from settings.telemetry import is_exported, resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.metrics import Meter, Observation

    from celery_sqs.sqs.queue import Queue
    from settings import Settings

MOST_COUNTED = 1000  # a person sees that there are many, and counting all would cost more and more


@click.command()
def metrics() -> None:
    """Export how many messages each queue has, and how many emails need a person, by OTLP.

    There is also the age of the oldest message of each queue. The emails are the Failed and the Unknown ones, counted
    up to 1,000 each. Run one process per stage. It runs until it is stopped. OTEL_EXPORTER_OTLP_ENDPOINT names the
    collector. An export is made every minute, or every OTEL_METRIC_EXPORT_INTERVAL milliseconds. It takes one request
    to SQS for each queue, one to CloudWatch for the ages, and 33 small ones to DynamoDB.
    """
    observation = _observation()
    settings = get_settings()
    check_resources(settings)
    sqs = client("sqs", settings)
    queues = [find_queue(sqs, name) for queue in settings.queues for name in (queue, dead_letter_queue(queue))]
    if not _count_emails(Attention.from_settings(settings)):
        say(
            f"There is no email.attention: {settings.table} has no index yet ({hint('provision')}), or this program's"
            " policy does not allow dynamodb:Query on it (docs/iam/operator.json).",
            err=True,
        )
    # sigwait needs the signals to be blocked in all threads. Threads inherit that if it is set before they start.
    stop = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    provider = _meter_provider()
    _create_gauges(provider.get_meter("email-service"), observation, settings, queues)
    say(f"exporting the metrics of {', '.join(queue.name for queue in queues)}")
    signal.sigwait(stop)
    provider.shutdown()


def _observation() -> type[Observation]:
    """Return the class of a figure, or say what is missing for metrics."""
    if not is_exported("METRICS"):
        raise click.ClickException(
            "OTEL_EXPORTER_OTLP_ENDPOINT does not name a collector (such as http://localhost:4318), or another OTEL_* "
            "variable turns metrics off."
        )
    try:
        from opentelemetry.metrics import Observation  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError:
        raise click.ClickException("The extra `telemetry` is not installed: uv sync --extra telemetry") from None
    return Observation


def _create_gauges(meter: Meter, observation: type[Observation], settings: Settings, queues: list[Queue]) -> None:
    cloudwatch, attention = client("cloudwatch", settings), Attention.from_settings(settings)
    stage = StagePause.from_settings(settings)
    names = [queue.name for queue in queues]

    def observe(_options: object) -> Iterator[Observation]:
        for queue in queues:
            ready, in_flight, delayed = queue.depths()
            for state, count in {"ready": ready, "unacknowledged": in_flight, "delayed": delayed}.items():
                yield observation(count, {"email.queue": queue.name, "email.state": state})

    def observe_ages(_options: object) -> Iterator[Observation]:
        for name, seconds in ages_of_oldest_messages(cloudwatch, names).items():
            yield observation(seconds, {"email.queue": name})

    def observe_emails(_options: object) -> Iterator[Observation]:
        for status, count in _count_emails(attention).items():
            yield observation(count, {"email.status": status})

    def observe_pause(_options: object) -> Iterator[Observation]:
        yield observation(int(stage.read() is not None), {"email.stage": settings.stage})

    meter.create_observable_gauge(
        "email.queue.messages", [observe], description="The approximate number of messages in a queue"
    )
    meter.create_observable_gauge(
        "email.queue.oldest_message.age",
        [observe_ages],
        unit="s",
        description="The age of a queue's oldest message, as CloudWatch reports it, some minutes late",
    )
    meter.create_observable_gauge(
        "email.attention",
        [observe_emails],
        description=f"The number of emails that need a person, up to {MOST_COUNTED} of each status",
    )
    meter.create_observable_gauge(
        "email.stage.paused", [observe_pause], description="1 if the stage is paused, and 0 if not"
    )


def _count_emails(attention: Attention) -> dict[str, int]:
    """Count the emails that need a person by their status, or return {} if the index is missing or may not be read."""
    try:
        return {status.value: attention.count(status, MOST_COUNTED) for status in sorted(NEEDS_PERSON)}
    except (IndexMissing, StoreDenied):
        return {}


def _meter_provider() -> Any:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415 (an extra)
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 (an extra)
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415 (an extra)

    return MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource=resource())
