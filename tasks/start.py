"""What a worker does before it consumes: it logs its settings, and it stops if something that it needs is missing."""

from __future__ import annotations

import _thread
import gc
import math
import sys
from typing import Any

from celery.concurrency import get_implementation
from celery.signals import (
    celeryd_after_setup,
    celeryd_init,
    worker_init,
    worker_process_init,
    worker_ready,
    worker_shutting_down,
)
from celery.utils.log import get_task_logger

from celery_sqs.sqs.batches import MAX_ENTRIES
from emails.callbacks import check_reader
from emails.providers import load_providers, unknown_variables
from emails.providers.stub import StubSettings
from emails.resources import ResourcesMissing, check_resources
from emails.webhooks.settings import WebhookSettings
from settings import SettingsError, get_settings
from settings.telemetry import is_exported
from tasks.pipeline import get_sender, own_rates

logger = get_task_logger(__name__)

HEARTBEAT_SECONDS = 30


@celeryd_init.connect
def check(**_: Any) -> None:
    """Check providers, queues and tables. If the settings have no send rate, keep to the provider's own."""
    settings = get_settings()
    check_reader(WebhookSettings.read())
    # This does not use the Sender's providers, because prefork's children must not share a connection that this opens.
    providers = load_providers(settings)
    own_rates.clear()
    if not settings.send_rate:
        own_rates.update({name: rate for name, each in providers.items() if (rate := each.max_send_rate())})
    try:
        check_resources(settings)
    except ResourcesMissing as error:
        raise SettingsError(str(error)) from None


@celeryd_after_setup.connect
def log_settings(**_: Any) -> None:
    """Log the settings in one line, and what a person should know about them, now that logging is set up."""
    settings = get_settings()
    logger.info("%s", settings)
    for name, rate in own_rates.items():
        logger.info("send_rate=%g for %s, as the provider allows", rate, name)
    for sentence in unknown_variables():
        logger.warning("%s", sentence)
    if "stub" in settings.providers and (outbox := StubSettings.read().outbox(settings)):
        logger.info("the stub writes each email as an .eml file to %s", outbox.absolute())


@worker_init.connect
def set_heartbeat_interval(sender: Any, **_: Any) -> None:
    """Send a heartbeat every 30 s and not every 2 s, because each one is a request for everybody who watches."""
    sender.options["heartbeat_interval"] = sender.options.get("heartbeat_interval") or HEARTBEAT_SECONDS


@worker_shutting_down.connect
def stop_waiting(**_: Any) -> None:
    """End the wait for the send rate. This happens in a thread, because a signal handler must not wait."""
    _thread.start_new_thread(get_sender().close, ())


@worker_init.connect
def prefetch_enough(sender: Any, **_: Any) -> None:
    """Raise the prefetch limit, so that the pool stays busy while every queue is polled.

    A poll takes up to 20 s. For that time, it reserves part of the limit for the messages that it may return.
    """
    least = sender.concurrency + MAX_ENTRIES * len(get_settings().queues)
    sender.prefetch_multiplier = max(sender.prefetch_multiplier, math.ceil(least / sender.concurrency))


@worker_ready.connect
@worker_process_init.connect
def freeze(**_: Any) -> None:
    """Exempt what exists at the start from garbage collection.

    Those modules and classes stay until the process ends, so every full collection would go through them for nothing.
    """
    gc.collect()
    gc.freeze()


@worker_init.connect
def observe(sender: Any, **_: Any) -> None:
    """Start OpenTelemetry if the worker sends from this process. A prefork worker starts it in each child process."""
    if get_implementation(sender.pool_cls).__module__ != "celery.concurrency.prefork":
        observe_process()


@worker_process_init.connect
def observe_process(**_: Any) -> None:
    """Start OpenTelemetry if its environment variables name a collector. If not, it is not even imported."""
    if not (is_exported("TRACES") or is_exported("METRICS")):
        return
    try:
        from tasks import telemetry  # noqa: PLC0415 (an optional extra, and slow to import)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        # A cluster may name its collector to every program, so this is no reason for a worker to stop.
        advice = "Traces and metrics are off: an OTLP endpoint is set, but the extra `telemetry` is not installed."
        print(advice, file=sys.stderr)  # noqa: T201 (no logging is set up yet)
    else:
        telemetry.start()
