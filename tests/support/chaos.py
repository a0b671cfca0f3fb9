"""No email is lost and none is sent twice, whatever breaks: `python -m tests.support.chaos --seed 7 --emails 2000`.

Emails go through workers that are killed and restarted, over connections to SQS, DynamoDB and an SMTP server that fail.
Then the judge reads the rows, the queues, the provider's file, and who was killed while holding what; never a log. The
seed decides the faults, the kills and the provider's answers; how threads and processes interleave remains chance.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer
from click.testing import CliRunner
from pydantic import HttpUrl
from rich.console import Console
from rich.table import Table

from commands import main as email_service
from commands.emulator import running_emulator
from emails.dead_letters import MAX_RECEIVES_REASON, ReceivedDeadLetter, dead_letters
from emails.decide import ABANDONED
from emails.providers.smtp_settings import SmtpSettings
from emails.queue import RawQueue
from emails.status import EmailStatus
from settings import Settings, get_settings
from settings.aws import client
from settings.environment import variable
from tests.conftest import free_port
from tests.support.celery_programs import PROGRAMS, kill, start_celery
from tests.support.provider_double import ACCEPTED, FAILED, LATE, LOST, REFUSED
from tests.support.sqs import message_counts
from tests.support.stage import environment_of, new_stage, pending_row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emails.store import Row

ROOT = Path(__file__).parents[2]

WORKERS = 3
CONCURRENCY = 8
EMAILS_A_KILL = 40
MOST_KILLS = 30
LONGEST_PAUSE_SECONDS = 8  # between two kills: workers that start take some of them
LONGEST_REST_SECONDS = 60  # after the last kill, for work under faults alone
MOST_EMAILS = 0.8  # accepted: about a tenth never is
START_SECONDS = 60
EXIT_SECONDS = 60  # of a worker that is asked to stop
CALLS = 200  # of remote control, by callers who do not wait
DRAIN_SECONDS = 240
MOST_RESOLVED = 20  # by the operator at a time

STOPPED_AT_ITS_START = -signal.SIGTERM  # before it listens to signals

CLAIM_LEASE = 3
MAX_ATTEMPTS = 5
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
    "duplicate": 0.03,
    "unanswered_claim": 0.05,
}
DUPLICATES = 0.1  # of raw messages
LATE_ROWS = 0.05  # written after their message

FINAL = frozenset({EmailStatus.SENT, EmailStatus.FAILED, EmailStatus.UNKNOWN})

# What is promised.
ENDED = "every email is Sent, Failed or Unknown"
ONCE = "no email was accepted twice but by the operator's word"
ACCEPTED_IS_SENT = "what was accepted is Sent or Unknown"
SENT_IS_ACCEPTED = "what is Sent was accepted, or an operator said so"
FAILED_IS_REFUSED = "what Failed was refused for good, or as often as may be"
UNKNOWN_IS_EXPLAINED = "each Unknown may have reached the provider: a crash or a lost answer is behind it"
NOTHING_LEFT = "no message is left"
DEAD_IS_EXPLAINED = "each dead letter is explained"
UNUSABLE_IS_DEAD = "what nobody can use is a dead letter"
STOPPED = "a worker that is asked to stop ends what it holds, and stops"
NEVER_STALLED = "no worker is stalled, whoever calls it and does not wait"

# Why an email is Unknown.
CRASH = "its worker was killed"
NO_ANSWER = "the provider's answer was lost"
STORE_AWAY = "DynamoDB's answers to its record were lost"
TOO_SLOW = "the answers took longer than the lease"
MACHINE_SLOW = "the machine was too slow for the time-outs"


@dataclass
class Holds:
    """From the workers' journal: who worked on which email, and how that went."""

    open: Counter[tuple[int, str]] = field(default_factory=Counter)  # by process and email: begun and not ended
    outlasted: set[str] = field(default_factory=set)  # for longer than a lease
    raised: set[str] = field(default_factory=set)  # ended by DynamoDB
    unanswered: set[str] = field(default_factory=set)  # by the provider, in time
    reached: set[str] = field(default_factory=set)  # given to the provider, as far as a worker knows
    unanswered_claims: dict[str, int] = field(default_factory=dict)  # and the process that knows that it sent nothing

    @classmethod
    def read(cls, journal: str) -> Holds:
        holds = cls()
        for line in journal.splitlines():
            pid, verb, email_id, *rest = line.split()
            if verb == "unanswered":
                holds.unanswered.add(email_id)
                continue
            if verb == "reaches":
                holds.reached.add(email_id)
                continue
            if verb == "unanswered-claim":
                holds.unanswered_claims[rest[0]] = int(pid)
                continue
            holds.open[int(pid), email_id] += 1 if verb == "holds" else -1
            if rest and float(rest[0]) >= CLAIM_LEASE:
                holds.outlasted.add(email_id)
            if rest and rest[1] == "StoreUnavailable":
                holds.raised.add(email_id)
        return holds


@dataclass
class Story:
    """What happened, as far as the judge looks."""

    rows: dict[str, Row] = field(default_factory=dict)
    seen: dict[str, Row] = field(
        default_factory=dict
    )  # the rows when the work was done, before the operator's last act
    provider: dict[str, Counter[str]] = field(default_factory=dict)  # what it did, by email or by step
    store_faults: Counter[str] = field(default_factory=Counter)  # of writes, by email
    killed: set[int] = field(default_factory=set)  # by SIGKILL
    holds: Holds = field(default_factory=Holds)
    resent: Counter[str] = field(default_factory=Counter)  # by the operator
    marked_sent: set[str] = field(default_factory=set)  # by the operator
    left: dict[str, tuple[int, ...]] = field(default_factory=dict)  # in queues: visible, in flight, delayed
    letters: list[ReceivedDeadLetter] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)  # a text of each message that nobody can use, and why
    exit_codes: dict[int, int | None] = field(default_factory=dict)  # of workers that were asked to stop, by pid
    stalls: list[str] = field(default_factory=list)  # what the liveness probe would say


def judge(story: Story) -> dict[str, list[str]]:
    """What was promised, and all that speaks against it."""
    status = {email_id: row["EmailStatus"] for email_id, row in story.rows.items()}
    accepted = Counter({email_id: did[ACCEPTED] for email_id, did in story.provider.items()})
    letters = [(letter, _why_dead(letter, story)) for letter in story.letters]
    explained = {text for _, text in letters if text}
    return {
        ENDED: [f"{email_id} is {status[email_id]}" for email_id in status if status[email_id] not in FINAL],
        ONCE: [
            f"{email_id} was accepted {count} times, resent {story.resent[email_id]}"
            for email_id, count in accepted.items()
            if count > 1 + story.resent[email_id]
        ],
        ACCEPTED_IS_SENT: [
            f"{email_id} is {status.get(email_id)}"
            for email_id in +accepted
            if status.get(email_id) not in (EmailStatus.SENT, EmailStatus.UNKNOWN)
        ],
        SENT_IS_ACCEPTED: [
            email_id
            for email_id in status
            if status[email_id] == EmailStatus.SENT and not accepted[email_id] and email_id not in story.marked_sent
        ],
        FAILED_IS_REFUSED: [
            email_id
            for email_id, row in story.rows.items()
            if status[email_id] == EmailStatus.FAILED
            and not story.provider.get(email_id, {}).get(REFUSED)
            and row.get("Attempts", 0) < MAX_ATTEMPTS
        ],
        UNKNOWN_IS_EXPLAINED: [
            f"{row['EmailId']}: {row['FailureReason']}" for row, why in why_unknown(story) if not why
        ],
        NOTHING_LEFT: [f"{queue}: {count}" for queue, count in story.left.items() if any(count)],
        DEAD_IS_EXPLAINED: [
            f"{letter.queue}: {letter.reason}: {letter.detail}" for letter, text in letters if not text
        ],
        UNUSABLE_IS_DEAD: [text for text in story.unusable if text not in explained],
        STOPPED: [
            f"{pid} ended with {code}"
            for pid, code in story.exit_codes.items()
            if code != 0 and (code != STOPPED_AT_ITS_START or any(pid == holder for holder, _ in story.holds.open))
        ],
        NEVER_STALLED: story.stalls,
    }


def why_unknown(story: Story) -> list[tuple[Row, str]]:
    """Each row that is or was Unknown, and what explains it, or nothing."""
    rows = [*story.seen.values(), *(row for email_id, row in story.rows.items() if row != story.seen.get(email_id))]
    return [(row, _why(row, story)) for row in rows if row["EmailStatus"] == EmailStatus.UNKNOWN]


def _why(row: Row, story: Story) -> str:
    return _why_abandoned(row, story) if row["FailureReason"] == ABANDONED else _why_lost(row["EmailId"], story)


def _why_lost(email_id: str, story: Story) -> str:
    did = story.provider.get(email_id, Counter())
    if did[FAILED] or did[LOST] or did[LATE]:
        return NO_ANSWER
    return MACHINE_SLOW if email_id in story.holds.unanswered else ""


def _why_abandoned(row: Row, story: Story) -> str:
    """Nothing excuses a claim that got no answer, but that its worker was killed, and the token was lost with it."""
    email_id, holds = row["EmailId"], story.holds
    worker = holds.unanswered_claims.get(row.get("ClaimedBy", ""))
    if worker is not None:
        return CRASH if worker in story.killed else ""
    if any(count and pid in story.killed for (pid, held), count in holds.open.items() if held == email_id):
        return CRASH
    if email_id in holds.raised & holds.reached and story.store_faults[email_id]:
        return STORE_AWAY
    if email_id in holds.outlasted:
        return TOO_SLOW if story.store_faults[email_id] else MACHINE_SLOW
    return ""


def _why_dead(letter: ReceivedDeadLetter, story: Story) -> str:
    """The text of the unusable message that the dead letter is, or another reason for it, or nothing."""
    for text, reason in story.unusable.items():
        if text in letter.body and letter.reason == reason:
            return text
    return "workers were killed" if letter.reason == MAX_RECEIVES_REASON and story.killed else ""


class Team:
    """The workers; each that ends is replaced."""

    def __init__(self, settings: Settings, folder: Path, pool: str, roots: list[Path], **environment: str) -> None:
        self._environment = {
            **os.environ,
            **settings.environment(),
            "CHAOS_JOURNAL": str(folder / "journal"),
            **environment,
        }
        self._folder = folder
        self._pool = pool
        self._roots = roots
        self._started = 0
        self._workers: list[subprocess.Popen[bytes]] = []
        self._stopping: list[subprocess.Popen[bytes]] = []
        self._killed: list[subprocess.Popen[bytes]] = []
        self.signals: Counter[str] = Counter()
        self.gave_up = 0

    @property
    def killed(self) -> set[int]:
        return {worker.pid for worker in self._killed}

    def fill(self) -> None:
        ended = [worker for worker in self._workers if worker.poll() is not None]
        self.gave_up += len(ended)  # as where DynamoDB does not answer a worker that starts
        self._workers = [worker for worker in self._workers if worker not in ended]
        while len(self._workers) < WORKERS:
            self._workers.append(self._start())

    def kill(self, number: signal.Signals, dice: random.Random) -> None:
        """Send a worker that works the signal, and start another: while it ends, where it does so by itself."""
        wait(lambda: self.fill() or self._at_work(), START_SECONDS)
        worker = dice.choice(self._at_work() or self._workers)
        self._workers.remove(worker)
        if number == signal.SIGKILL:  # its processes too, as where its container ends
            os.killpg(worker.pid, number)
        else:
            worker.send_signal(number)
        self.signals[number.name] += 1
        (self._killed if number == signal.SIGKILL else self._stopping).append(worker)
        self.fill()

    def stop(self) -> dict[int, int | None]:
        """Ask all to stop. Returns the exit codes of all that were ever asked to, None where one did not."""
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        self._stopping += self._workers
        self._workers = []
        wait(lambda: all(worker.poll() is not None for worker in self._stopping), EXIT_SECONDS)
        return {worker.pid: worker.poll() for worker in self._stopping}

    def end(self) -> None:
        for worker in (*self._workers, *self._stopping, *self._killed):
            kill(worker)

    def _at_work(self) -> list[subprocess.Popen[bytes]]:
        """Those that have begun an email."""
        pids = {int(line.split()[0]) for line in (self._folder / "journal").read_text().splitlines()}
        return [worker for worker in self._workers if worker.pid in pids]

    def _start(self) -> subprocess.Popen[bytes]:
        root = self._roots[self._started % len(self._roots)]
        self._started += 1
        liveness = self._folder / f"liveness-{self._started}"
        return start_celery(
            *("worker", "-l", "INFO", "-P", self._pool),
            app=worker_app(root),
            log_file=self._folder / "worker.log",  # for a person; the judge does not look
            environment=self._environment | {"PYTHONPATH": str(root), variable("liveness_file"): str(liveness)},
            cwd=self._folder,
            programs=root / ".venv" / "bin" if len(self._roots) > 1 else PROGRAMS,
        )

    def stalls(self) -> list[str]:
        """What the running workers say of themselves."""
        found = []
        for file in self._folder.glob("liveness-*"):
            with suppress(OSError, ValueError):
                found.append(json.loads(file.read_text()).get("stalled", ""))
        return [stalled for stalled in found if stalled]


class Chaos:
    """One run. Everything but the workers goes past the faults."""

    def __init__(  # noqa: PLR0913 (what a run is made of)
        self,
        endpoint: str,
        folder: Path,
        seed: int,
        *,
        pool: str = "threads",
        beside: Path | None = None,
        duplicates: float = DUPLICATES,
        **rates: float,
    ) -> None:
        self.story = Story()
        self._pool = pool
        self._roots = [ROOT, beside] if beside else [ROOT]
        self.faults: Counter[str] = Counter()
        self.accepted_under_faults = 0
        self.seconds: dict[str, int] = {}
        self.duplicates = 0
        self.settings = new_stage(endpoint, **SETTINGS)
        self._sqs = client("sqs", self.settings)
        self._dynamodb = client("dynamodb", self.settings)
        self._queue = RawQueue(self.settings)
        self._folder = self.folder = folder
        self._seed = seed
        self._dice = random.Random(seed)
        self._duplicates = duplicates
        self._rates = AWS_RATES | rates
        self._late_rows: list[Row] = []

    def run(self, emails: int, **environment: str) -> Story:
        """Send the emails while everything breaks, then let the workers end it in peace."""
        folder, seed = self._folder, str(self._seed)
        with (
            serving("provider_double", "--seed", seed, "--file", str(folder / "emails")) as port,
            serving_badly(self.settings.endpoint or "", seed, self._rates, folder / "aws") as bad_aws,
            self._team(bad_aws, port, environment) as team,
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
            self.signals, self.gave_up = team.signals, team.gave_up
        self._read()
        return self.story

    @contextmanager
    def _team(self, aws: str, smtp_port: str, environment: dict[str, str]) -> Iterator[Team]:
        settings = self.settings.model_copy(update={"endpoint_url": HttpUrl(aws)})
        server = SmtpSettings(smtp_host="127.0.0.1", smtp_port=int(smtp_port), smtp_security="none")
        team = Team(settings, self._folder, self._pool, self._roots, **server.environment(), **environment)
        team.fill()
        try:
            yield team
        finally:
            team.end()

    @contextmanager
    def _callers(self, aws: str) -> Iterator[None]:
        """Call the workers throughout, by callers who do not wait for the answers."""
        names = environment_of(self.settings, EMAIL_ENDPOINT_URL=aws)
        command = [sys.executable, "-m", "tests.support.callers", "--calls", str(CALLS), "--seed", str(self._seed)]
        calls_file = self._folder / "calls"
        if len(self._roots) > 1:  # a caller who has gone stalls workers of older versions
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
        kills = min(max(1, emails // EMAILS_A_KILL), MOST_KILLS)
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
        assert not self._queue.enqueue(ids, sent=lambda count: count)

    def _enqueue_unusable(self, suffix: str) -> None:
        nobody, not_json = f"nobody-{suffix}", f"not JSON: {suffix}"
        self.story.unusable |= {nobody: "EmailNotFound", not_json: "NotJson"}
        assert not self._queue.enqueue([nobody], sent=lambda count: count)
        self._sqs.send_message(QueueUrl=self._queue.url, MessageBody=not_json)

    def _put(self, row: Row) -> None:
        attributes = {name: {"S": value} for name, value in row.items() if isinstance(value, str)}
        recipients = {"RecipientsTo": {"SS": row["RecipientsTo"]}}
        self._dynamodb.put_item(TableName=self.settings.table, Item=attributes | recipients)

    def _put_late_rows(self) -> None:
        while self._late_rows:
            self._put(self._late_rows.pop())

    def _operate(self, *, some: bool) -> None:
        """What an operator does about Unknown emails, without a look at the provider's file."""
        unknown = [i for i, row in self._rows().items() if row["EmailStatus"] == EmailStatus.UNKNOWN]
        chosen = self._dice.sample(sorted(unknown), min(len(unknown) // (3 if some else 1), MOST_RESOLVED))
        get_settings.cache_clear()
        environment = environment_of(self.settings)
        for email_id in chosen:
            verdict = self._dice.choice(["--resend", "--sent"])
            if CliRunner().invoke(email_service, ["resolve", email_id, verdict], env=environment).exit_code:
                continue  # a late holder was faster
            if verdict == "--resend":
                self.story.resent[email_id] += 1
            else:
                self.story.marked_sent.add(email_id)
        get_settings.cache_clear()

    def _drain(self, team: Team) -> None:
        """Wait for the end of all work; where it does not come, what follows from that is for the judge to say."""
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
        story.rows, story.left = self._rows(), self._left()
        story.letters = list(dead_letters(self._sqs, self.settings))
        for line in (self._folder / "emails").read_text().splitlines():
            fate, of = line.split()
            story.provider.setdefault(of, Counter())[fate] += 1
        story.holds = Holds.read((self._folder / "journal").read_text())
        for line in (self._folder / "aws").read_text().splitlines():
            fault = json.loads(line)
            if fault["target"].endswith(".UpdateItem"):
                story.store_faults[json.loads(fault["body"])["Key"]["EmailId"]["S"]] += 1


def worker_app(root: Path) -> str:
    """The journaling worker of a checkout; versions before tests/support had it in tests/slow."""
    folder = "support" if (root / "tests" / "support" / "chaos_worker.py").exists() else "slow"
    return f"tests.{folder}.chaos_worker"


@contextmanager
def serving(module: str, *options: str) -> Iterator[str]:
    """A server of this folder, in a process of its own; gives its URL or port."""
    command = [sys.executable, "-m", f"tests.support.{module}", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def serving_badly(upstream: str, seed: str, rates: dict[str, float], journal: Path) -> Iterator[str]:
    options = ["--upstream", upstream, "--seed", seed, "--rates", json.dumps(rates), "--journal", str(journal)]
    with serving("fault_proxy", *options) as url:
        yield url


def ask(proxy: str, question: str) -> Counter[str]:
    with urllib.request.urlopen(f"{proxy}/_fault/{question}", timeout=30) as response:
        return Counter(json.load(response))


def wait(condition: Callable[[], object], seconds: float) -> None:
    """For a condition that may fail to come."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def report(chaos: Chaos, verdict: dict[str, list[str]], seed: int, emails: int) -> Table:
    story = chaos.story
    table = Table(title=f"chaos, seed {seed}, {emails} emails", caption=f"make chaos SEED={seed} EMAILS={emails}")
    table.add_column()
    table.add_column(overflow="fold")
    kinds = Counter(str(row["EmailStatus"]) for row in story.rows.values())
    for name, counts in (
        ("rows", kinds),
        ("Unknown because", Counter(why or "?" for _, why in why_unknown(story))),
        ("resolved by the operator", {"resent": story.resent.total(), "marked sent": len(story.marked_sent)}),
        ("the provider", sum(story.provider.values(), Counter())),
        ("accepted under faults", {"": chaos.accepted_under_faults}),
        ("workers killed", chaos.signals),
        ("workers that gave up by themselves", {"": chaos.gave_up}),
        ("raw messages sent twice", {"": chaos.duplicates}),
        ("faults of AWS", chaos.faults),
        ("calls of remote control", Counter((chaos.folder / "calls").read_text().split())),
        ("seconds", chaos.seconds),
        ("dead letters", Counter(letter.reason for letter in story.letters)),
    ):
        table.add_row(name, ", ".join(f"{count} {kind}".strip() for kind, count in sorted(counts.items())))
    table.add_section()
    for promise, violations in verdict.items():
        table.add_row(
            promise, "\n".join(violations[:20]) if violations else "yes", style="red" if violations else "green"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--emails", type=int, default=2000)
    parser.add_argument("--pool", default="threads", choices=["threads", "gevent", "processes"])
    parser.add_argument(
        "--beside",
        type=lambda path: Path(path).resolve(),
        help="a checkout, with its .venv, of a version whose workers join in",
    )
    options = parser.parse_args()
    folder = Path(mkdtemp(prefix="chaos-"))
    with running_emulator(free_port()) as url:
        chaos = Chaos(url, folder, options.seed, pool=options.pool, beside=options.beside)
        verdict = judge(chaos.run(options.emails))
    if options.beside:  # its workers may keep another journal, and are judged by their own tests
        del verdict[UNKNOWN_IS_EXPLAINED]
    console = Console()
    console.print(report(chaos, verdict, options.seed, options.emails))
    console.print(f"What the judge read, and the workers' log: {folder}")
    sys.exit(any(verdict.values()))


if __name__ == "__main__":
    main()
