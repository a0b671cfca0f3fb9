"""Three workers together send no faster than the rate, and wait for it without extra requests to SQS."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from emails.raw_queue import enqueue_ids, find_raw_queue
from tests.support.celery_programs import running_celery
from tests.support.proxy import Proxy, running
from tests.support.stage import count_sent, environment_of, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.alone]

WORKERS, EMAILS, RATE = 3, 400, 50


def test_three_workers_keep_to_the_rate(
    settings: Settings,
    tmp_path: Path,
    row: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    wait_until: Callable[..., None],
) -> None:
    outbox = tmp_path / "outbox"
    ids = [f"email-{number}" for number in range(EMAILS)]
    write_rows(settings, row, ids)
    enqueue_ids(find_raw_queue(settings), ids)
    requests: Counter[str] = Counter()

    def count_requests(service: str, action: str, _: bytes) -> str:
        requests[service.partition("_")[0]] += 1
        requests[action] += 1
        return ""

    with running(Proxy(settings.endpoint or "", count_requests)) as proxy:
        environment = environment_of(
            settings, EMAIL_ENDPOINT_URL=proxy.url, EMAIL_STUB_OUTBOX=str(outbox), EMAIL_SEND_RATE=str(RATE)
        )
        with ExitStack() as workers:
            for number in range(WORKERS):
                arguments = ["worker", "--loglevel", "WARNING", "--hostname", f"worker-{number}@localhost"]
                log_file = tmp_path / f"worker-{number}.log"
                workers.enter_context(running_celery(*arguments, log_file=log_file, environment=environment))
            wait_until(lambda: count_sent(outbox) == EMAILS, seconds=120)
    sent_at = sorted(file.stat().st_mtime for file in outbox.iterdir())
    seconds = sent_at[-1] - sent_at[0]
    with capsys.disabled():
        sys.stdout.write(
            f"\n{EMAILS} emails at {RATE} a second took {WORKERS} workers {seconds:.1f} s, {requests['AmazonSQS']} SQS "
            f"requests and {requests['UpdateItem'] - 2 * EMAILS} reservations\n"
        )
    # Each email has its own turn, 1/RATE s after the one before it, and was sent within a second of its turn.
    assert seconds >= (EMAILS - 1) / RATE - 2
    assert requests["AmazonSQS"] <= 2 * EMAILS
