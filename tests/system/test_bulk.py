"""A newsletter never delays a password reset."""

from __future__ import annotations

import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.store import EmailStore
from tests.support.celery_programs import running_celery
from tests.support.stage import count_sent, environment_of, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.alone]

BULK, SINGLE = 5000, 20

# The most emails that may be sent while a single one waits. Each of its three messages may find a whole prefetch of 64
# before it, and some more are sent while the test looks, especially on a busy machine. Without the priority there are
# thousands.
BETWEEN = 4 * 64


def test_single_emails_overtake_a_backlog_of_bulk(
    settings: Settings,
    tmp_path: Path,
    row: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    wait_until: Callable[..., None],
) -> None:
    store = EmailStore.from_settings(settings)
    outbox = tmp_path / "outbox"
    ids = [f"bulk-{number}" for number in range(BULK)]
    write_rows(settings, row, ids)
    enqueue_ids(find_raw_queue(settings, bulk=True), ids)
    environment = environment_of(settings, EMAIL_STUB_OUTBOX=str(outbox))
    log_file = tmp_path / "worker.log"
    with running_celery("worker", "--loglevel", "WARNING", log_file=log_file, environment=environment):
        wait_until(lambda: count_sent(outbox) > 200, what="the worker is at the bulk")
        seconds, between = [], []
        for number in range(SINGLE):
            email_id = f"single-{number}"
            store.put(row | {"EmailId": email_id})
            before, began = count_sent(outbox), time.monotonic()
            enqueue_ids(find_raw_queue(settings), [email_id])
            wait_until(lambda sent=email_id: (store.get(sent) or {})["EmailStatus"] == "Sent")
            seconds.append(time.monotonic() - began)
            between.append(count_sent(outbox) - before)
        left = BULK + SINGLE - count_sent(outbox)
    with capsys.disabled():
        sys.stdout.write(
            f"\nbehind {left} bulk emails {SINGLE} single ones took {statistics.median(seconds):.2f} s in the median, "
            f"{max(seconds):.2f} s at most; {max(between)} others at most were sent meanwhile\n"
        )
    assert left > 0
    assert max(between) <= BETWEEN
