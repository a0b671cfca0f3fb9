"""What a worker does before it consumes: says what it works on, and stops where that is missing."""

from __future__ import annotations

import _thread
import math
import sys
from typing import Any

from celery.concurrency import get_implementation
from celery.signals import celeryd_after_setup, celeryd_init, worker_init, worker_process_init, worker_shutting_down
from celery.utils.log import get_task_logger

from emails.providers import load_providers
from emails.resources import ResourcesMissing, check_resources
from settings import SettingsError, get_settings, override
from settings.telemetry import is_exported
from tasks.pipeline import get_sender

logger = get_task_logger(__name__)

MESSAGES_A_RECEIVE = 10  # the most that SQS hands out at a time
HEARTBEAT_SECONDS = 30


@celeryd_init.connect
def check(**_: Any) -> None:
    """Check providers, queues and tables, and keep to the provider's own send rate where the settings name none."""
    settings = get_settings()
    # Not those of this process's Sender: prefork's children must not share the connection that this may open.
    rate = load_providers(settings)[settings.provider].max_send_rate()
    if rate and not settings.send_rate:
        override(send_rate=rate)
    try:
        check_resources(get_settings())
    except ResourcesMissing as error:
        raise SettingsError(str(error)) from None


@celeryd_after_setup.connect
def say_settings(**_: Any) -> None:
    """In one line, once there is a log."""
    logger.info("%s", get_settings())


@worker_init.connect
def set_heartbeat_interval(sender: Any, **_: Any) -> None:
    """Say every 30 s that the worker is there, not every 2 s: each time is a request for everybody who watches."""
    sender.options["heartbeat_interval"] = sender.options.get("heartbeat_interval") or HEARTBEAT_SECONDS


@worker_shutting_down.connect
def stop_waiting(**_: Any) -> None:
    """Let no email wait for its turn under a send rate; in a thread, since a signal's handler must not wait."""
    _thread.start_new_thread(get_sender().close, ())


@worker_init.connect
def prefetch_enough(sender: Any, **_: Any) -> None:
    """Let the pool be busy while every queue is polled: a poll holds room for what it may bring, and waits 20 s."""
    least = sender.concurrency + MESSAGES_A_RECEIVE * len(get_settings().queues)
    sender.prefetch_multiplier = max(sender.prefetch_multiplier, math.ceil(least / sender.concurrency))


@worker_init.connect
def observe(sender: Any, **_: Any) -> None:
    """Start OpenTelemetry in a worker that sends from this process; one of processes starts it in each of them."""
    if get_implementation(sender.pool_cls).__module__ != "celery.concurrency.prefork":
        observe_process()


@worker_process_init.connect
def observe_process(**_: Any) -> None:
    """Start OpenTelemetry where its own environment names a collector; elsewhere it is not even imported."""
    if not (is_exported("TRACES") or is_exported("METRICS")):
        return
    try:
        from tasks import telemetry  # noqa: PLC0415 (an extra, and not free)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        # A cluster may name its collector to every program: no reason for a worker to stop.
        advice = "No traces, no metrics: an OTLP endpoint is set, but the extra `telemetry` is not installed."
        print(advice, file=sys.stderr)  # noqa: T201 (no logging is set up yet)
    else:
        telemetry.start()
