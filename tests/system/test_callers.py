"""Callers of remote control and watchers of events come and go while a worker sends emails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from emails.raw_queue import enqueue_ids, find_raw_queue
from tests.support.celery_programs import running_celery
from tests.support.stage import count_sent, environment_of, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EMAILS = int(os.environ.get("EMAILS", "500"))  # 2,000 if it is run by hand
CALLS = EMAILS // 10
AT_ONCE = 100  # emails enqueued at once
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("pool", ["threads", "gevent", "prefork"])
def test_callers_who_come_and_go_stall_no_worker(
    pool: str, settings: Settings, tmp_path: Path, row: dict[str, Any], wait_until: Callable[..., None]
) -> None:
    outbox = tmp_path / "outbox"
    ids = [f"email-{number}" for number in range(EMAILS)]
    write_rows(settings, row, ids)
    environment = environment_of(
        settings, EMAIL_STUB_OUTBOX=str(outbox), EMAIL_LIVENESS_FILE=str(tmp_path / "liveness"), PYTHONPATH=str(ROOT)
    )
    log, calls = tmp_path / "worker.log", tmp_path / "calls"
    arguments = ["worker", "-l", "INFO", "-P", pool, "-c", "4"]
    with running_celery(*arguments, log_file=log, environment=environment) as worker:
        wait_until(lambda: "ready." in log.read_text())
        command = [sys.executable, "-m", "tests.support.callers", "--calls", str(CALLS)]
        with calls.open("wb") as file:
            callers = subprocess.Popen(command, env=os.environ | environment, cwd=ROOT, stdout=file)
        queue = find_raw_queue(settings)
        for first in range(0, EMAILS, AT_ONCE):
            enqueue_ids(queue, ids[first : first + AT_ONCE])
            called = CALLS * first // EMAILS
            wait_until(lambda done=first: count_sent(outbox) >= done, seconds=120)
            wait_until(lambda least=called: calls.read_text().count("\n") >= least, seconds=120)
        assert callers.wait(120) == 0
        wait_until(lambda: count_sent(outbox) == EMAILS, seconds=120)
        answers = set(calls.read_text().split())
        assert answers == {"answered", "unanswered"}, "some callers wait long enough, others do not"
        probe = [sys.executable, "-m", "celery_sqs.liveness", str(tmp_path / "liveness")]
        assert subprocess.run(probe, cwd=ROOT, capture_output=True, text=True, check=False).stdout == "alive\n"
        assert "stalled:" not in log.read_text()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
