"""What a worker does before it consumes."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from celery.signals import worker_process_init, worker_ready

import celeryconfig
from emails.providers.stub import StubProvider
from emails.sender import Sender
from settings import get_settings
from tasks import start
from tasks.app import app
from tasks.pipeline import get_sender, own_rates
from tasks.start import prefetch_enough

if TYPE_CHECKING:
    from celery.utils.dispatch import Signal


def test_each_queue_has_a_routing_key_of_its_own() -> None:
    """Without its own key, Celery binds each queue to its default key, and all queues get the same messages."""
    keys = {queue.name: queue.routing_key for queue in celeryconfig.task_queues}
    assert len(keys) == 4
    assert keys == {name: name for name in keys}


@pytest.mark.parametrize(
    ("concurrency", "multiplier", "prefetch"),
    [(1, 2, 41), (4, 2, 44), (32, 2, 96), (40, 2, 80), (2, 50, 100)],
)
def test_what_runs_and_ten_messages_a_queue_are_prefetched(concurrency: int, multiplier: int, prefetch: int) -> None:
    worker = SimpleNamespace(prefetch_multiplier=multiplier, concurrency=concurrency)
    prefetch_enough(worker)
    assert worker.prefetch_multiplier * concurrency == prefetch


@pytest.mark.parametrize("signal", [worker_ready, worker_process_init], ids=["worker", "child process"])
def test_what_exists_at_the_start_is_exempt_from_garbage_collection(signal: Signal) -> None:
    gc.unfreeze()  # a worker that another test ran in this process has sent the same signal
    try:
        signal.send(sender=None)
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("quota", [0.2, 14, 25_000])
@pytest.mark.usefixtures("environment")
def test_a_worker_keeps_to_its_provider_s_own_send_rate(monkeypatch: pytest.MonkeyPatch, quota: float) -> None:
    monkeypatch.setattr(StubProvider, "max_send_rate", lambda _: quota)
    start.check()
    assert own_rates == {"stub": quota}
    assert Sender.from_settings(get_settings(), own_rates)._rates["stub"]._per_second == quota


@pytest.mark.usefixtures("environment")
def test_the_rate_in_the_settings_goes_before_the_provider_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StubProvider, "max_send_rate", lambda _: 14)
    monkeypatch.setenv("EMAIL_SEND_RATE", "30")
    start.check()
    assert own_rates == {}
    assert Sender.from_settings(get_settings(), own_rates)._rates["stub"]._per_second == 30


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, True),
        ({"EMAIL_STUB_OUTBOX": "none"}, False),
        ({"EMAIL_PROVIDER": "smtp"}, False),
        ({"EMAIL_PROVIDER": "smtp", "EMAIL_SEND_VIA": "stub"}, True),
    ],
)
def test_a_worker_says_where_the_stub_writes_emails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variables: dict[str, str], said: bool
) -> None:
    monkeypatch.setattr("emails.providers.stub.LOCAL_OUTBOX", Path("outbox"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO):
        start.log_settings()
    assert (f"the stub writes each email as an .eml file to {Path('outbox').absolute()}" in caplog.messages) == said


def test_a_worker_names_a_variable_that_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EMAIL_SEND_RATES", "5")
    start.log_settings()
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert record.message == "EMAIL_SEND_RATES is not a setting, so it is ignored. Did you mean EMAIL_SEND_RATE?"


def test_our_workers_take_no_compressed_messages() -> None:
    with app.connection_for_read() as connection:
        assert connection.transport_options["accept_compression"] is False


def test_a_forked_child_does_not_share_its_parent_s_sender() -> None:
    assert get_sender() is get_sender()
    parent_s = get_sender()
    if not (child := os.fork()):
        shares = True
        try:
            shares = get_sender() is parent_s
        finally:
            os._exit(shares)
    assert os.waitpid(child, 0)[1] == 0
