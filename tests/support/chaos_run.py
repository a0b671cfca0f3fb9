"""A chaos run: emails go through workers that are killed and restarted, over connections that fail."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer
from click.testing import CliRunner
from pydantic import HttpUrl

from commands import main as email_service
from emails.backfill import backfill
from emails.dead_letters import dead_letters
from emails.providers.smtp_settings import SmtpSettings
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.status import EmailStatus
from emails.store import Attention, EmailStore
from settings import get_settings
from settings.aws import client
from tests.support.chaos_judge import CLAIM_LEASE, MAX_ATTEMPTS, Holds, Story
from tests.support.chaos_team import ROOT, START_SECONDS, WORKERS, Team, wait
from tests.support.dynamodb_requests import updates_in
from tests.support.fault_proxy_process import ask, running_fault_proxy, running_server
from tests.support.provider_double import ACCEPTED
from tests.support.sqs import message_counts
from tests.support.stage import environment_of, new_stage, pending_row

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emails.store import Row

CONCURRENCY = 8
EMAILS_A_KILL = 40
MOST_KILLS = 30
LONGEST_PAUSE_SECONDS = 8  # between two kills, including the time that new workers need to start
LONGEST_REST_SECONDS = 60  # after the last kill, when there are only faults
MOST_EMAILS = 0.8  # the share to wait for: about a tenth is never accepted
CALLS = 200  # of remote control, by callers that do not wait for replies
DRAIN_SECONDS = 240
MOST_RESOLVED = 20  # emails that the operator resolves at once

SETTINGS: dict[str, Any] = {
    "provider": "smtp",
    "provider_timeout": 1,
    "claim_lease": CLAIM_LEASE,
    "max_attempts": MAX_ATTEMPTS,
    "retry_delay": 0.2,
    "retry_delay_max": 2,
    "missing_row_wait": 15,
    "visibility_timeout": 10,
    "concurrency": CONCURRENCY,
}

AWS_RATES = {
    "lost_request": 0.02,
    "lost_response": 0.03,
    "reset": 0.02,
    "internal_error": 0.02,
    "unavailable": 0.02,
    "throttled": 0.02,
    "hang": 0.02,
    "entry_refused": 0.03,
    "entry_unconfirmed": 0.03,
    "reordered": 0.1,
    "duplicate": 0.03,
    "unanswered_claim": 0.05,
}
DUPLICATES = 0.1  # the share of raw messages that are sent twice
LATE_ROWS = 0.05  # the share of rows that are written after their message


class Chaos:
    """One run. Only the workers and the callers of remote control go through the faults."""

    def __init__(  # noqa: PLR0913 (they are what makes up a run)
        self,
        endpoint: str,
        folder: Path,
        seed: int,
        *,
        pool: str = "threads",
        beside: Path | None = None,
        fail_over: bool = False,
        duplicates: float = DUPLICATES,
        **rates: float,
    ) -> None:
        self.story = Story()
        self._pool = pool
        self._beside = beside
        self._fail_over = fail_over
        self.faults: Counter[str] = Counter()
        self.accepted_under_faults = 0
        self.seconds: dict[str, int] = {}
        self.duplicates = 0
        self.settings = new_stage(endpoint, **SETTINGS | ({"provider": ("smtp", "stub")} if fail_over else {}))
        self._sqs = client("sqs", self.settings)
        self._dynamodb = client("dynamodb", self.settings)
        self._queue = find_raw_queue(self.settings)
        self._folder = self.folder = folder
        self._seed = seed
        self._dice = random.Random(seed)
        self._duplicates = duplicates
        self._rates = AWS_RATES | rates
        self.backfilled = 0
        self._late_rows: list[Row] = []

    def run(self, emails: int, **environment: str) -> Story:
        """Send the emails while everything breaks, then let the workers finish without faults."""
        folder, seed = self._folder, str(self._seed)
        provider = "provider_double", "--seed", seed, "--file", str(folder / "emails")
        with (
            running_server(*provider, *(["--troubled"] if self._fail_over else [])) as port,
            running_server(*provider) as second_port,
            running_fault_proxy(
                self.settings.endpoint or "", self._seed, self._rates, journal=folder / "aws"
            ) as bad_aws,
            self._team(
                bad_aws, port, {**environment, **({"CHAOS_SECOND_PORT": second_port} if self._fail_over else {})}
            ) as team,
            self._callers(bad_aws),
        ):
            ask(bad_aws, "on")
            with self._timed("under faults"):
                self._send_and_kill(emails, team)
            with self._timed("to drain"):
                self.faults = ask(bad_aws, "off")
                self._drain(team)
                self.story.seen = self._rows()
            with self._timed("after the operator"):
                self._operate(some=False)
                self._drain(team)
                self.story.stalls = team.stalls()
                self.story.exit_codes = team.stop()
            self.story.killed = team.killed
            self.started, self.signals, self.gave_up = team.started, team.signals, team.gave_up
        self._read()
        return self.story

    @contextmanager
    def _team(self, aws: str, smtp_port: str, environment: dict[str, str]) -> Iterator[Team]:
        settings = self.settings.model_copy(update={"endpoint_url": HttpUrl(aws)})
        server = SmtpSettings(smtp_host="127.0.0.1", smtp_port=int(smtp_port), smtp_security="none")
        environment = settings.environment() | server.environment() | environment
        team = Team(environment, self._folder, self._pool, self._beside)
        team.fill()
        try:
            yield team
        finally:
            team.end()

    @contextmanager
    def _callers(self, aws: str) -> Iterator[None]:
        """Call the workers by remote control throughout the run, without waiting for their replies."""
        names = environment_of(self.settings, EMAIL_ENDPOINT_URL=aws)
        command = [sys.executable, "-m", "tests.support.callers", "--calls", str(CALLS), "--seed", str(self._seed)]
        calls_file = self._folder / "calls"
        if self._beside:  # workers of older versions stall if a caller is gone
            calls_file.touch()
            yield
            return
        with calls_file.open("wb") as calls:
            process = subprocess.Popen(command, env=os.environ | names, cwd=ROOT, stdout=calls, stderr=calls)
        try:
            yield
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - started)

    def _send_and_kill(self, emails: int, team: Team) -> None:
        kills = min(max(2 * WORKERS if self._beside else 1, emails // EMAILS_A_KILL), MOST_KILLS)
        signals = [signal.SIGTERM, signal.SIGKILL, signal.SIGKILL] * (kills // 3 + 1)
        self._dice.shuffle(signals)
        ids = [f"email-{number:06}" for number in range(emails)]
        for number in range(kills):
            some = ids[number::kills]
            self._enqueue(some)
            if number <= kills // 2:
                self._enqueue_unusable(some[0])
            if number == 0:
                wait(self._accepted, START_SECONDS)
            wanted = self._accepted() + 1 + self._dice.randrange(len(some))
            wait(lambda wanted=wanted: team.fill() or self._accepted() >= wanted, LONGEST_PAUSE_SECONDS)
            team.roll((number + 1) / (kills + 1))
            team.kill(signals[number], self._dice)
            self._put_late_rows()
            if number == kills // 2:
                self._operate(some=True)
        wait(lambda: team.fill() or self._accepted() >= MOST_EMAILS * emails, LONGEST_REST_SECONDS)
        self.accepted_under_faults = self._accepted()

    def _enqueue(self, email_ids: list[str]) -> None:
        for email_id in email_ids:
            self._late_rows.append(pending_row(email_id))
            if self._dice.random() >= LATE_ROWS:
                self._put(self._late_rows.pop())
        again = [email_id for email_id in email_ids if self._dice.random() < self._duplicates]
        self.duplicates += len(again)
        ids = email_ids + again
        self._dice.shuffle(ids)
        assert not enqueue_ids(self._queue, ids)

    def _enqueue_unusable(self, suffix: str) -> None:
        nobody, not_json = f"nobody-{suffix}", f"not JSON: {suffix}"
        self.story.unusable |= {nobody: "EmailNotFound", not_json: "NotJson"}
        assert not enqueue_ids(self._queue, [nobody])
        self._sqs.send_message(QueueUrl=self._queue.url, MessageBody=not_json)

    def _put(self, row: Row) -> None:
        attributes = {name: {"S": value} for name, value in row.items() if isinstance(value, str)}
        recipients = {"RecipientsTo": {"SS": row["RecipientsTo"]}}
        self._dynamodb.put_item(TableName=self.settings.table, Item=attributes | recipients)

    def _put_late_rows(self) -> None:
        while self._late_rows:
            self._put(self._late_rows.pop())

    def _operate(self, *, some: bool) -> None:
        """Resolve Unknown emails like an operator who does not look at the provider's file."""
        unknown = [i for i, row in self._rows().items() if row["EmailStatus"] == EmailStatus.UNKNOWN]
        chosen = self._dice.sample(sorted(unknown), min(len(unknown) // (3 if some else 1), MOST_RESOLVED))
        get_settings.cache_clear()
        environment = environment_of(self.settings)
        for email_id in chosen:
            verdict = self._dice.choice(["--resend", "--sent"])
            if CliRunner().invoke(email_service, ["resolve", email_id, verdict], env=environment).exit_code:
                continue  # a worker that still held the email was faster
            if verdict == "--resend":
                self.story.resent[email_id] += 1
            else:
                self.story.marked_sent.add(email_id)
        get_settings.cache_clear()

    def _drain(self, team: Team) -> None:
        """Wait until all work is done. If that does not happen in time, the judge reports what is left."""
        wait(lambda: team.fill() or not any(map(any, self._left().values())), DRAIN_SECONDS)

    def _rows(self) -> dict[str, Row]:
        deserialize = TypeDeserializer().deserialize
        pages = self._dynamodb.get_paginator("scan").paginate(TableName=self.settings.table, ConsistentRead=True)
        rows = [{name: deserialize(value) for name, value in item.items()} for page in pages for item in page["Items"]]
        return {row["EmailId"]: row for row in rows}

    def _left(self) -> dict[str, tuple[int, ...]]:
        urls = {queue: self._sqs.get_queue_url(QueueName=queue)["QueueUrl"] for queue in self.settings.queues}
        return {queue: message_counts(self._sqs, url) for queue, url in urls.items()}

    def _accepted(self) -> int:
        return (self._folder / "emails").read_text().count(f"{ACCEPTED} ")

    def _read(self) -> None:
        story = self.story
        attention = Attention.from_settings(self.settings)
        if self._beside:  # workers of older versions know nothing of the index
            self.backfilled = backfill(
                EmailStore.from_settings(self.settings), attention, 1e6, lambda _: None
            ).corrected
        story.listed = {entry.email_id for entry in attention.newest()}
        story.rows, story.left = self._rows(), self._left()
        story.letters = list(dead_letters(self._sqs, self.settings))
        for line in (self._folder / "emails").read_text().splitlines():
            fate, of = line.split()
            story.provider.setdefault(of, Counter())[fate] += 1
        story.holds = Holds.read((self._folder / "journal").read_text())
        for line in (self._folder / "aws").read_text().splitlines():
            fault = json.loads(line)
            updates = updates_in(fault["target"].rpartition(".")[2], fault["body"].encode("latin-1"))
            story.store_faults.update(update.email_id for update in updates)
