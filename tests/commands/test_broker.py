"""`email_broker`, the program of the predecessor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from commands.broker import main
from emails.raw_queue import enqueue_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_sqs import SQSClient

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore
    from settings import Settings


@pytest.mark.usefixtures("environment")
def test_a_dry_run_says_what_would_be_sent_and_why_not_and_changes_nothing(
    row: dict[str, Any], store: EmailStore, raw_queue: Queue, sqs: SQSClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_ATTACHMENT_PREFIXES", "s3://bucket/")
    file = {"name": "a.pdf", "content_type": "application/pdf", "s3_uri": "s3://bucket/a.pdf"}
    rows = [row, {**row, "EmailId": "bad", "Sender": "x"}, {**row, "EmailId": "sent", "EmailStatus": "Sent"}]
    rows.append({**row, "EmailId": "file", "Attachments": [file]})
    for each in rows:
        store.put(each)
    enqueue_ids(raw_queue, [*(each["EmailId"] for each in rows), "no-row"])
    sqs.send_message(QueueUrl=raw_queue.url, MessageBody="hello")
    result = CliRunner().invoke(main, ["--dry-run", "-q", raw_queue.url, "-t", store.table, "-r", "localstack"])
    assert result.exit_code == 0, result.output
    for line in (
        f"{row['EmailId']}: would be sent by stub, 1 recipients, 0 attachments",
        "file: would be sent by stub, 1 recipients, 1 attachments",
        "bytes without the files in S3",
        "bad: would not be sent: Failed: invalid row",
        "sent: would not be sent: already Sent",
        "no-row: would wait: it has no row yet",
        "would become a dead letter: NotJson: the body is not JSON",
    ):
        assert line in result.output
    assert [store.get(each["EmailId"]) for each in rows] == rows
    assert len(raw_queue.receive(10, 0, 30)) == 6, "they were given back at once"


@pytest.mark.slow
def test_it_runs_a_worker_on_the_queue_and_table_it_is_given(
    row: dict[str, Any], store: EmailStore, raw_queue: Queue, settings: Settings, wait_until: Callable[..., None]
) -> None:
    store.put(row)
    enqueue_ids(raw_queue, [row["EmailId"]])
    program = Path(sys.executable).with_name("email_broker")
    environment = os.environ | {"AWS_ENDPOINT_URL": settings.endpoint or ""}
    arguments = ["--region", "localstack", "--queue-url", raw_queue.url, "--table-name", settings.table]
    process = subprocess.Popen([program, *arguments], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (store.get(row["EmailId"]) or {})["EmailStatus"] == "Sent")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def test_a_queue_that_is_missing_is_named_with_the_command_that_makes_it(settings: Settings) -> None:
    program = Path(sys.executable).with_name("email_broker")
    environment = os.environ | {"EMAIL_ENDPOINT_URL": settings.endpoint or "", "EMAIL_STAGE": "nobody"}
    result = subprocess.run([program], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "queue emails_nobody," in result.stderr
    assert re.search(r"email-service provision$", result.stderr.strip())


def test_a_dry_run_that_cannot_reach_an_emulator_is_one_line(free_endpoint: str) -> None:
    environment = os.environ | {"EMAIL_ENDPOINT_URL": free_endpoint}
    result = dry_run(environment)
    assert result.returncode == 1
    assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
    assert result.stderr.startswith(f"Error: Nothing answers at {free_endpoint}: start the local emulator")


def test_a_dry_run_without_credentials_is_one_line(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "EMAIL_REGION": "eu-west-1",
    }
    result = dry_run(environment)
    assert result.returncode == 1
    assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
    assert result.stderr.startswith("Error: There are no usable AWS credentials for eu-west-1")


def dry_run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("email_broker")
    return subprocess.run([program, "--dry-run"], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("option", ["-h", "--help", "--version"])
def test_it_has_the_options_of_every_program(option: str) -> None:
    assert CliRunner().invoke(main, [option]).exit_code == 0
