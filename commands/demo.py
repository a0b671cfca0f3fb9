"""The command that shows the whole pipeline, from raw messages to sent emails, on its own emulator."""

from __future__ import annotations

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import click
from pydantic import HttpUrl
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from commands.emulator import HOST, EmulatorFailed, running_emulator
from emails.dead_letters import dead_letters
from emails.printable import printable
from emails.providers.smtp_settings import HOST_PATTERN, SmtpSettings
from emails.providers.stub import StubSettings
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.resources import provision
from emails.store import EmailStore
from settings import Settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emails.store import Row

SECONDS = 45
LARGEST_PORT = 65_535
SENT_ON_SECOND_TRY = "second-try@example.com"
FAILS = "nobody@example.com"


@dataclass(frozen=True)
class Case:
    """An id on the queue, and the status or the reason for a dead letter that it has to end with."""

    email_id: str
    ends: str
    row: Row | None = None


def _row(email_id: str, to: str = "ada@example.com", **attributes: Any) -> Row:
    return {
        "EmailId": email_id,
        "EmailStatus": "Pending",
        "Subject": f"Hello from {email_id}",
        "Sender": "The Shop <shop@example.com>",
        "RecipientsTo": [to],
        "BodyText": "Hello!",
        "BodyHtml": "<p>Hello!</p>",
        **attributes,
    }


REPORT = base64.b64encode(b"month,emails\njanuary,1000\n").decode()
FILE = {"name": "r\u00e9sum\u00e9 \U0001f4ca.csv", "content_type": "text/csv", "body": REPORT}
CASES = (
    *(Case(f"good-{number}", "Sent", _row(f"good-{number}")) for number in range(1, 6)),
    Case(
        "attachment-and-emoji",
        "Sent",
        _row("attachment-and-emoji", Subject="Your report \U0001f389", Attachments=[FILE]),
    ),
    Case("already-sent", "Sent", _row("already-sent", EmailStatus="Sent")),
    # The stub sends these two even with --smtp, because a mail catcher cannot be told to fail.
    Case("fails-permanently", "Failed", _row("fails-permanently", to=FAILS, SendVia="stub")),
    Case("fails-once-then-sent", "Sent", _row("fails-once-then-sent", to=SENT_ON_SECOND_TRY, SendVia="stub")),
    Case("no-recipient", "Failed", _row("no-recipient", RecipientsTo=[])),
    Case("no-row", "EmailNotFound"),
)
MALFORMED_BODY = '{"email_id": '
DEAD_LETTERS = sorted(["EmailNotFound", "NotJson"])


@click.command()
@click.option(
    "--smtp",
    metavar="HOST:PORT",
    default="",
    help="Send to a mail catcher, in clear text: `localhost:1025` is the inbox of docker-compose.yml.",
)
def demo(smtp: str) -> None:
    """Start an emulator and a worker, send a few good and bad emails, and show what became of each.

    The demo needs no setup and leaves nothing running. It writes the emails as .eml files to a new folder or, with
    --smtp, sends them there. The exit code is 0 only if every email ended as it should.
    """
    catcher = _mail_catcher(smtp) if smtp else None
    console = Console()
    outbox = Path(mkdtemp(prefix="email-service-demo-"))
    failures = {FAILS: "permanent", SENT_ON_SECOND_TRY: "temporary:1"}
    try:
        with running_emulator(_free_port()) as url:
            settings = Settings(
                endpoint_url=HttpUrl(url),
                stage="demo",
                provider=("smtp" if catcher else "stub",),
                send_via=("stub",),
                retry_delay=1,
                missing_row_wait=3,
                redirect_to="",  # the stub's failures are chosen by recipient
            )
            stub = StubSettings(stub_outbox=outbox, stub_failures=failures)
            list(provision(settings))
            environment = os.environ | settings.environment() | stub.environment()
            if catcher:
                environment |= catcher.environment()
            with _running_worker(environment, outbox / "worker.log"):
                ended_well = _run(settings, console)
    except EmulatorFailed as error:
        raise click.ClickException(str(error)) from None
    if smtp:
        console.print(f"\nThe emails are at {smtp}. It refuses nothing, so the stub sent the emails that were to fail.")
    kept = "The stub's emails" if smtp else "The emails"
    console.print(f"\n{kept}: {outbox}/*.eml (a mail program opens them). The worker's log: {outbox}/worker.log")
    if not ended_well:
        raise click.ClickException("Some emails did not end as they should: see above.")


def _mail_catcher(server: str) -> SmtpSettings:
    host, _, port = server.rpartition(":")
    if not re.fullmatch(HOST_PATTERN, host) or not port.isdecimal() or not 0 < int(port) <= LARGEST_PORT:
        raise click.BadParameter(f"{server!r} is not a HOST:PORT such as localhost:1025", param_hint="--smtp")
    return SmtpSettings(smtp_host=host, smtp_port=int(port), smtp_security="none")


def _run(settings: Settings, console: Console) -> bool:
    store = EmailStore.from_settings(settings)
    for case in CASES:
        if case.row:
            store.put(case.row)
    queue = find_raw_queue(settings)
    enqueue_ids(queue, (case.email_id for case in CASES))
    sqs = client("sqs", settings)
    sqs.send_message(QueueUrl=queue.url, MessageBody=MALFORMED_BODY)
    deadline = time.monotonic() + SECONDS
    with Live(console=console, refresh_per_second=5, transient=True) as live:
        while True:
            rows = {case.email_id: store.get(case.email_id) or {} for case in CASES}
            live.update(_table(rows))
            ended_well = all(rows[case.email_id].get("EmailStatus") == case.ends for case in CASES if case.row)
            late = time.monotonic() > deadline
            if ended_well or late:
                letters = list(dead_letters(sqs, settings))  # this takes seconds, because SQS asks all its servers
                ended_well = ended_well and sorted(letter.reason for letter in letters) == DEAD_LETTERS
            if ended_well or late:
                break
            time.sleep(0.2)
    console.print(_table(rows))
    console.print("Dead letters:")
    for letter in letters:
        line = printable(f"  {letter.queue}: {letter.reason}: {letter.detail}")
        console.print(line, highlight=False, markup=False)
    return ended_well


def _table(rows: dict[str, Row]) -> Table:
    table = Table("Email", "Status", "Attempts", "Why")
    for email_id, row in rows.items():
        cells = (email_id, row.get("EmailStatus", "no row"), row.get("Attempts", ""), row.get("FailureReason", ""))
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    return table


@contextmanager
def _running_worker(environment: dict[str, str], log: Path) -> Iterator[None]:
    arguments = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "INFO"]
    with log.open("wb") as output:
        worker = subprocess.Popen(arguments, env=environment, stdout=output, stderr=output, start_new_session=True)  # noqa: S603 (ours)
        try:
            yield
        finally:
            worker.send_signal(signal.SIGTERM)
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
