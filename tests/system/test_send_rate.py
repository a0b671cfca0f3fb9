"""Three workers send no more than the rate together, and wait for it without asking SQS for more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from emails.queue import RawQueue
from emails.store import EmailStore
from tests.support.proxy import Proxy, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from settings import Settings

pytestmark = pytest.mark.slow

WORKERS, EMAILS, RATE = 3, 400, 50


def test_three_workers_keep_to_the_rate(
    settings: Settings,
    tmp_path: Path,
    row: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    wait_until: Callable[..., None],
) -> None:
    store = EmailStore.from_settings(settings)
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    for number in range(EMAILS):
        store.put(row | {"EmailId": f"email-{number}"})
    ids = (f"email-{number}" for number in range(EMAILS))
    RawQueue(settings).enqueue(ids, sent=lambda count: count)
    requests: Counter[str] = Counter()

    def count(service: str, action: str, _: bytes) -> str:
        requests[service.partition("_")[0]] += 1
        requests[action] += 1
        return ""

    with running(Proxy(settings.endpoint or "", count)) as proxy:
        environment = {
            "EMAIL_ENDPOINT_URL": proxy.url,
            "EMAIL_STAGE": settings.stage,
            "EMAIL_STUB_OUTBOX": str(outbox),
            "EMAIL_SEND_RATE": str(RATE),
        }
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "WARNING", "--hostname"]
        workers = [
            subprocess.Popen([*command, f"worker-{number}@localhost"], env=os.environ | environment)
            for number in range(WORKERS)
        ]
        try:
            wait_until(lambda: sum(1 for _ in outbox.iterdir()) == EMAILS, seconds=120)
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(60)
    sent_at = sorted(file.stat().st_mtime for file in outbox.iterdir())
    seconds = sent_at[-1] - sent_at[0]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{EMAILS} emails at {RATE} a second took {WORKERS} workers {seconds:.1f} s, {requests['AmazonSQS']} SQS "
            f"requests and {requests['UpdateItem'] - 2 * EMAILS} reservations\n"
        )
    # Each email has a turn of its own, 1/RATE s after the one before it, and was sent within a second of it.
    assert seconds >= (EMAILS - 1) / RATE - 2
    assert requests["AmazonSQS"] <= 2 * EMAILS
