"""After an outage, every email that needs a person is found and resolved, whatever interrupts that, and sent once.

ATTENTION_EMAILS=5000 runs it in full.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest

from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.status import EmailStatus
from emails.store import Attention
from settings.aws import client
from tests.support.celery_programs import running_celery
from tests.support.stage import environment_of, new_stage, pending_row, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EMAILS = int(os.environ.get("ATTENTION_EMAILS", "1000"))
SWEEP_AFTER = 1

PROGRAM = "from commands import main; main()"
# In the third batch, Ctrl-C comes between the writes and the messages, and a kill does too.
DISTURBED = """
import os, signal
from emails import bulk
enqueue_ids, batches = bulk.enqueue_ids, []
def disturb(queue, ids):
    batches.append(ids)
    if len(batches) == 3:
        os.kill(os.getpid(), signal.{signal})
    return enqueue_ids(queue, ids)
bulk.enqueue_ids, bulk.BATCH = disturb, {batch}
from commands import main
main()
"""


def run_command(
    environment: dict[str, str], *arguments: str, program: str = PROGRAM, text: str = "", code: int = 0
) -> str:
    """Run `email-service` as a program, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=text,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def logged(log_file: Path) -> Counter[tuple[str, str]]:
    """Count the worker's lines about emails by level and event."""
    lines = [json.loads(line) for line in log_file.read_text().splitlines() if line.startswith("{")]
    return Counter((line["level"], line["event"]) for line in lines if "email_id" in line)


def test_what_an_outage_left_is_resolved_in_bulk_and_nothing_is_sent_twice(
    emulator: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], wait_until: Callable[..., None]
) -> None:
    settings = new_stage(emulator)
    refused = [f"refused-{number}" for number in range(EMAILS // 10)]
    lost = [f"lost-{number}" for number in range(EMAILS // 200)]
    silent = [f"silent-{number}" for number in range(EMAILS // 200)]
    unknown = len(lost) + len(silent)
    fine = [f"fine-{number}" for number in range(EMAILS - len(refused) - unknown)]
    outage, accepted = tmp_path / "outage", tmp_path / "accepted"
    log_file = tmp_path / "worker.log"
    outage.touch()
    accepted.touch()
    environment = environment_of(
        settings,
        OUTAGE=str(outage),
        ACCEPTED=str(accepted),
        EMAIL_SWEEP_AFTER=str(SWEEP_AFTER),
        EMAIL_LOG_FORMAT="json",
    )

    run = partial(run_command, environment)

    def count(status: EmailStatus) -> int:
        return attention.count(status, EMAILS)

    def times_accepted() -> Counter[str]:
        return Counter(accepted.read_text().split())

    def resolve_refused(disturbance: str, code: int) -> str:
        program = DISTURBED.format(signal=disturbance, batch=len(refused) // 10)
        failed = count(EmailStatus.FAILED)
        arguments = ("--status", "Failed", "--reason", "over quota", "--resend", "--confirm", str(failed))
        return run("resolve", *arguments, program=program, code=code)

    attention = Attention.from_settings(settings)
    began = time.monotonic()
    for ids in (lost, silent, refused, fine):
        write_rows(settings, pending_row(""), ids)
        enqueue_ids(find_raw_queue(settings), ids)
    with running_celery(
        *("worker", "--loglevel", "WARNING"),
        app="tests.support.outage_worker",
        log_file=log_file,
        environment=environment,
    ):
        wait_until(lambda: len(times_accepted()) == len(fine) + len(lost), 300, "all others are sent")
        wait_until(lambda: count(EmailStatus.FAILED) == len(refused) and count(EmailStatus.UNKNOWN) == unknown)

        found = json.loads(run("list", "--json", "--since", "2h", "--limit", str(EMAILS)))
        assert found["Count"] == len(found["Emails"]) == len(refused) + unknown
        assert found["Reasons"] == {"over quota": len(refused), "no answer": unknown}
        assert {each["EmailId"] for each in found["Emails"]} == {*refused, *lost, *silent}

        assert logged(log_file) == {
            ("warning", "Failed: over quota"): len(refused),
            ("error", "Unknown: no answer"): unknown,
        }

        outage.unlink()
        # A batch that Ctrl-C meets is finished. One that is killed leaves Pending emails, which a sweep finds.
        batch = len(refused) // 10
        said = resolve_refused("SIGINT", 130)
        assert said.endswith(f"{3 * batch} Pending and enqueued, 0 skipped, 0 failed, {7 * batch} left as they were.\n")
        resolve_refused("SIGKILL", -signal.SIGKILL)
        assert count(EmailStatus.FAILED) == 4 * batch
        run("resolve", "--status", "Failed", "--reason", "over quota", "--resend", "--confirm", str(4 * batch))
        # The provider's log shows which of the Unknown emails it accepted.
        run("resolve", "-", "--sent", "--confirm", str(len(lost)), text="\n".join(lost))
        run("resolve", "--status", "Unknown", "--resend", "--confirm", str(len(silent)))
        assert run("list") == "none\n"

        wait_until(lambda: len(times_accepted()) == EMAILS - batch, what="all are sent but those of the killed batch")
        time.sleep(SWEEP_AFTER)  # the age that a sweep waits for
        assert f"enqueued {batch}," in run("sweep", "--position", str(tmp_path / "position"))
        wait_until(lambda: len(times_accepted()) == EMAILS, what="all are sent")
        statuses = client("dynamodb", settings).get_paginator("scan").paginate(TableName=settings.table)
        wait_until(lambda: {item["EmailStatus"]["S"] for page in statuses for item in page["Items"]} == {"Sent"})
    assert set(times_accepted().values()) == {1}
    with capsys.disabled():
        sys.stdout.write(
            f"\nof {EMAILS} emails, {len(refused)} failed and {unknown} were Unknown; all were sent once, "
            f"{time.monotonic() - began:.0f} s\n"
        )
