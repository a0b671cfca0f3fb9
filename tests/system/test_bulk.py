"""A newsletter never delays a password reset."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from emails.queue import RawQueue
from emails.store import EmailStore
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from settings import Settings

pytestmark = pytest.mark.slow

BULK, SINGLE = 5000, 20

# What may be sent meanwhile: each of the single email's three messages may find a whole prefetch of 64 before it.
# Some are sent while the test looks, more of them on a busy machine. Without the priority it is thousands.
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
    outbox.mkdir()
    ids = [f"bulk-{number}" for number in range(BULK)]
    write(client("dynamodb", settings), settings.table, row, ids)
    RawQueue(settings, bulk=True).enqueue(ids, sent=lambda count: count)
    environment = {
        "EMAIL_ENDPOINT_URL": settings.endpoint or "",
        "EMAIL_STAGE": settings.stage,
        "EMAIL_STUB_OUTBOX": str(outbox),
    }
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "WARNING"], env=os.environ | environment
    )
    try:
        wait_until(lambda: count(outbox) > 200, what="the worker is at the bulk")
        seconds, between = [], []
        for number in range(SINGLE):
            email_id = f"single-{number}"
            store.put(row | {"EmailId": email_id})
            before, began = count(outbox), time.monotonic()
            RawQueue(settings).enqueue([email_id], sent=lambda count: count)
            wait_until(lambda sent=email_id: (store.get(sent) or {})["EmailStatus"] == "Sent")
            seconds.append(time.monotonic() - began)
            between.append(count(outbox) - before)
        left = BULK + SINGLE - count(outbox)
    finally:
        worker.terminate()
        worker.wait(60)
    with capsys.disabled():
        sys.stdout.write(
            f"\nbehind {left} bulk emails {SINGLE} single ones took {statistics.median(seconds):.2f} s in the median, "
            f"{max(seconds):.2f} s at most; {max(between)} others at most were sent meanwhile\n"
        )
    assert left > 0
    assert max(between) <= BETWEEN


def count(outbox: Path) -> int:
    return sum(1 for _ in outbox.iterdir())


def write(dynamodb: Any, table: str, row: dict[str, Any], email_ids: list[str]) -> None:
    """Write rows 25 at a time: BatchWriteItem's limit."""
    attributes = {
        name: {"L": [{"S": each} for each in value]} if isinstance(value, list) else {"S": value}
        for name, value in row.items()
    }
    for start in range(0, len(email_ids), 25):
        requests = [
            {"PutRequest": {"Item": attributes | {"EmailId": {"S": email_id}}}}
            for email_id in email_ids[start : start + 25]
        ]
        assert dynamodb.batch_write_item(RequestItems={table: requests})["UnprocessedItems"] == {}
