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
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import click
from pydantic import HttpUrl
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from commands.emulator import HOST, EmulatorFailed, running_emulator
from commands.postmark_double import running_postmark
from emails.dead_letters import dead_letters
from emails.printable import printable
from emails.providers.smtp_settings import HOST_PATTERN, SmtpSettings
from emails.providers.stub import StubSettings
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.resources import provision
from emails.store import EmailStore
from emails.webhooks.signatures import INSTALL
from settings import Settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

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
@click.option(
    "--provider",
    type=click.Choice(["postmark"]),
    help="Send to a stand-in for this service on this machine, which then reports the deliveries by webhooks.",
)
def demo(smtp: str, provider: str | None) -> None:
    """Start an emulator and a worker, send a few good and bad emails, and show what became of each.

    The demo needs no setup and leaves nothing running. It writes the emails as .eml files to a new folder or, with
    --smtp, sends them there. With --provider, it also shows how webhooks make them Delivered. The exit code is 0 only
    if every email ended as it should.
    """
    if smtp and provider:
        raise click.UsageError("Give --smtp or --provider, not both.")
    catcher = _mail_catcher(smtp) if smtp else None
    console = Console()
    outbox = Path(mkdtemp(prefix="email-service-demo-"))
    failures = {FAILS: "permanent", SENT_ON_SECOND_TRY: "temporary:1"}
    try:
        with running_emulator(_free_port()) as url:
            settings = Settings(
                endpoint_url=HttpUrl(url),
                stage="demo",
                provider=("smtp" if catcher else provider or "stub",),
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
            with (
                _reports(provider, environment, outbox) as variables,
                _running_worker(environment | variables, outbox / "worker.log"),
            ):
                ended_well = _run(settings, console, reported=provider is not None)
    except EmulatorFailed as error:
        raise click.ClickException(str(error)) from None
    if smtp:
        console.print(f"\nThe emails are at {smtp}. It refuses nothing, so the stub sent the emails that were to fail.")
    kept = "The stub's emails" if smtp or provider else "The emails"
    console.print(f"\n{kept}: {outbox}/*.eml (a mail program opens them). The worker's log: {outbox}/worker.log")
    if not ended_well:
        raise click.ClickException("Some emails did not end as they should: see above.")


def _mail_catcher(server: str) -> SmtpSettings:
    host, _, port = server.rpartition(":")
    if not re.fullmatch(HOST_PATTERN, host) or not port.isdecimal() or not 0 < int(port) <= LARGEST_PORT:
        raise click.BadParameter(f"{server!r} is not a HOST:PORT such as localhost:1025", param_hint="--smtp")
    return SmtpSettings(smtp_host=host, smtp_port=int(port), smtp_security="none")


@contextmanager
def _reports(provider: str | None, environment: dict[str, str], outbox: Path) -> Iterator[dict[str, str]]:
    """Run the service's double and the program that receives its webhooks, if there is a service.

    Yields the variables with which a worker sends to the double.
    """
    if provider is None:
        yield {}
        return
    if find_spec("anymail") is None:
        raise click.ClickException(f"{provider} needs the extra `anymail`: {INSTALL}")
    port, login = _free_port(), f"demo:{token_hex()}"
    with running_postmark(f"http://{HOST}:{port}/webhooks/{provider}", login) as double:
        variables = {
            "EMAIL_POSTMARK_SERVER_TOKEN": "demo",
            "EMAIL_POSTMARK_API_URL": double.url,
            "EMAIL_POSTMARK_WEBHOOK_SECRET": login,
        }
        arguments = [sys.executable, "-c", "from commands import main; main()", "webhooks", "--port", str(port)]
        with _running(arguments, environment | variables, outbox / "webhooks.log"):
            yield variables


def _end(case: Case, *, reported: bool) -> str:
    """Return the status that the case ends with. What a service reports is Delivered; the stub reports nothing."""
    is_sent_now = case.row is not None and case.row["EmailStatus"] == "Pending" and "SendVia" not in case.row
    return "Delivered" if reported and is_sent_now and case.ends == "Sent" else case.ends


def _run(settings: Settings, console: Console, *, reported: bool) -> bool:
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
            ended_well = all(
                rows[case.email_id].get("EmailStatus") == _end(case, reported=reported) for case in CASES if case.row
            )
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


def _running_worker(environment: dict[str, str], log: Path) -> AbstractContextManager[None]:
    return _running([sys.executable, "-m", "celery", "-A", "tasks", "worker", "--loglevel", "INFO"], environment, log)


@contextmanager
def _running(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        program = subprocess.Popen(arguments, env=environment, stdout=output, stderr=output, start_new_session=True)  # noqa: S603 (ours)
        try:
            yield
        finally:
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
