"""No message is lost, whatever fails in SQS or the network, and whoever kills workers.

The test judges by what the tasks wrote and what the queues contain, and never by a log. `SEED=7 pytest
tests/celery_sqs/test_no_loss.py` replays the faults and kills of seed 7. How threads and processes interleave remains
random.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.fault_proxy_process import ask, running_fault_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.celery_sqs.conftest import Queues

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(240)]

SEED = int(os.environ.get("SEED") or random.randrange(10**6))

POOLS = {
    "threads": ("--pool", "threads", "--concurrency", "8"),
    "gevent": ("--pool", "gevent", "--concurrency", "20"),
    "prefork": ("--pool", "prefork", "--concurrency", "3"),
}
# Whether a worker hands off what its tasks publish. With prefork, everything goes through SQS.
HAND_OFF, BY_SQS = ({"TRANSPORT_OPTIONS": json.dumps({"hand_off": on})} for on in (True, False))
each_way = pytest.mark.parametrize("way", [HAND_OFF, BY_SQS], ids=["hand-off", "by-sqs"])
each_pool = pytest.mark.parametrize("pool", POOLS)
ROOTS = 5  # sent before each kill
WIDTHS = (3, 2)  # each root has three children, and each child has two children
LONGEST_PAUSE_SECONDS = 10  # the longest time between two kills
DRAIN_SECONDS = 90

RATES = {
    "lost_request": 0.04,
    "lost_response": 0.04,
    "reset": 0.03,
    "internal_error": 0.03,
    "unavailable": 0.03,
    "throttled": 0.03,
    "hang": 0.03,
    "entry_refused": 0.05,
    "entry_unconfirmed": 0.05,
    "duplicate": 0.05,
}

TERM, QUIT, KILL = signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL
CHILD = "a child process"


class Team:
    """Two workers. If one ends, another one replaces it."""

    def __init__(self, queues: Queues, *arguments: str, **environment: str) -> None:
        self._queues = queues
        self._arguments = arguments
        # Tasks take a moment, so that handed-off messages wait in a worker when it is killed.
        usual = {"WAIT_TIME_SECONDS": "2", "PYTHONFAULTHANDLER": "1", "TREE_SECONDS": "0.2"}
        self._environment = usual | environment
        self._workers: list[subprocess.Popen[bytes]] = []
        self._leaving: list[subprocess.Popen[bytes]] = []
        self.crashes = 0
        self.fill()

    def fill(self) -> None:
        crashed = [worker for worker in self._workers if worker.poll() is not None]
        self.crashes += len(crashed)
        for worker in crashed:
            self._let_go(worker)
        while len(self._workers) < 2:
            self._workers.append(self._queues.start(*self._arguments, **self._environment))

    def kill(self, number: signal.Signals, dice: random.Random) -> None:
        """Send a worker the signal, and start another at once, even if the first takes time to end."""
        worker = dice.choice(self._workers)
        if number == KILL:  # the whole process group dies, as it does with its container
            os.killpg(worker.pid, KILL)
        else:
            worker.send_signal(number)
        self._let_go(worker)
        self.fill()

    def kill_a_child(self, dice: random.Random) -> None:
        """Kill one of a worker's processes, as the kernel does when memory runs out."""
        parent = dice.choice(self._workers).pid
        if children := Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            os.kill(int(dice.choice(children)), KILL)

    def stop(self) -> None:
        for worker in list(self._workers):
            worker.send_signal(TERM)
            self._let_go(worker)
        for worker in self._leaving:
            try:
                worker.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(worker.pid, signal.SIGABRT)  # upon which each process writes the stacks of its threads
                worker.wait(60)
                pytest.fail(f"worker {worker.pid} did not stop within 60 seconds:\n{self._queues.log()[-20_000:]}")

    def _let_go(self, worker: subprocess.Popen[bytes]) -> None:
        self._workers.remove(worker)
        self._leaving.append(worker)


def tree(root: str, *widths: int) -> Iterator[str]:
    """Yield the names that a root and its descendants write to the journal."""
    yield root
    for number in range(widths[0] if widths else 0):
        yield from tree(f"{root}.{number}", *widths[1:])


class Trial:
    """Sends roots, kills workers, and checks what happened to the roots."""

    def __init__(self, queues: Queues, wait_until: Callable[..., None]) -> None:
        self._queues = queues
        self._wait_until = wait_until
        self._roots = 0

    def run(self, team: Team, dice: random.Random, kills: Sequence[signal.Signals | str]) -> None:
        """Kill workers at random moments during their work."""
        for kill in dice.sample(kills, len(kills)):
            self._send()
            moment = self._done() + dice.randrange(1, 10 * ROOTS)
            self._wait(lambda at=moment: team.fill() or self._done() >= at, LONGEST_PAUSE_SECONDS)
            if kill == CHILD:
                team.kill_a_child(dice)
            else:
                team.kill(kill, dice)

    def run_under_faults(
        self,
        seed: int,
        rates: dict[str, float],
        kills: Sequence[signal.Signals | str],
        *arguments: str,
        **environment: str,
    ) -> dict[str, int]:
        """Do the same with faults, and then let the workers finish without. Return how often each fault occurred."""
        with running_fault_proxy(self._queues.endpoint, seed, rates) as proxy:
            ask(proxy, "on")
            environment |= {"BROKER_URL": self._queues.broker_url(proxy), "VISIBILITY_TIMEOUT": "6"}
            team = Team(self._queues, *arguments, **environment)
            self.run(team, random.Random(seed), kills)
            faults = dict(ask(proxy, "off"))
            self.drain(team)
        return faults | {"crashes": team.crashes}

    def drain(self, team: Team) -> None:
        self._wait(lambda: team.fill() or not any(self._queues.counts("tasks")), DRAIN_SECONDS)
        team.stop()

    def duplicates(self) -> int:
        return sum(count - 1 for count in self._queues.lines().values())

    def lost(self) -> list[str]:
        wanted = {name for root in range(self._roots) for name in tree(f"r{root}", *WIDTHS)}
        return sorted(wanted - self._queues.lines().keys())

    def left(self) -> dict[str, tuple[int, int, int]]:
        """Return how many messages are visible, in flight and delayed, for each queue that is not empty."""
        counts = {name: self._queues.counts(name) for name in ("tasks", "tasks-dlq", "raw", "raw-dlq")}
        return {name: count for name, count in counts.items() if any(count)}

    def _send(self) -> None:
        for _ in range(ROOTS):
            self._queues.send("tree", f"r{self._roots}", *WIDTHS)
            self._roots += 1

    def _done(self) -> int:
        return self._queues.lines().total()

    def _wait(self, condition: Callable[[], object], seconds: float) -> None:
        """Wait for a condition that may never become true. The test's assertions decide what that means."""
        with suppress(AssertionError):
            self._wait_until(condition, seconds)


@pytest.fixture
def trial(queues: Queues, wait_until: Callable[..., None]) -> Trial:
    return Trial(queues, wait_until)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Callable[..., None]:
    """Print what happened."""

    def write(seed: int, **facts: object) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: SEED={seed} {facts}\n")

    return write


@each_way
@each_pool
def test_no_task_is_lost_whatever_breaks(
    pool: str, way: dict[str, str], trial: Trial, tell: Callable[..., None]
) -> None:
    kills = [TERM, QUIT, KILL, KILL, *([CHILD, CHILD] if pool == "prefork" else [TERM, KILL])]
    faults = trial.run_under_faults(SEED, RATES, kills, *POOLS[pool], "--include", "short_read_timeout", **way)
    tell(SEED, duplicates=trial.duplicates(), **faults)
    assert (trial.lost(), trial.left()) == ([], {}), f"SEED={SEED} pytest {__file__} -k 'lost and {pool}' replays it"


@each_way
@each_pool
def test_a_stop_makes_no_duplicate_and_leaves_nothing_to_a_time_out(
    pool: str, way: dict[str, str], queues: Queues, trial: Trial, tell: Callable[..., None]
) -> None:
    team = Team(queues, *POOLS[pool], VISIBILITY_TIMEOUT=str(2 * DRAIN_SECONDS), **way)
    trial.run(team, random.Random(SEED), [TERM] * 5)
    trial.drain(team)
    tell(SEED, duplicates=trial.duplicates(), crashes=team.crashes)
    assert (trial.lost(), trial.left(), trial.duplicates()) == ([], {}, 0), f"SEED={SEED} pytest {__file__} replays it"


# A handed-off message is lost with its worker. Faults would only delay the deletion of its root, which saves it.
@pytest.mark.parametrize(
    ("way", "rates"),
    [(HAND_OFF, {}), (BY_SQS, {"lost_request": 0.5, "entry_refused": 0.5})],
    ids=["hand-off", "by-sqs"],
)
def test_the_judge_sees_what_is_lost_where_no_parent_waits_for_its_children(
    way: dict[str, str], rates: dict[str, float], trial: Trial, tell: Callable[..., None]
) -> None:
    for seed in range(6):  # on a busy machine, a run may be lucky
        trial.run_under_faults(
            seed,
            rates,
            [KILL] * 4,
            *POOLS["threads"],
            "--include",
            "short_read_timeout,unguarded",
            **way,
        )
        tell(seed, lost=len(trial.lost()), left=trial.left())
        if trial.lost() and not trial.left():
            return
    pytest.fail("nothing was lost without the guard, so the other tests prove nothing")
