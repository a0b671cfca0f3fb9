"""The workers of a chaos run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.celery_programs import PROGRAMS, kill, start_celery

if TYPE_CHECKING:
    import random
    import subprocess
    from collections.abc import Callable


ROOT = Path(__file__).parents[2]

WORKERS = 3
START_SECONDS = 60
EXIT_SECONDS = 60  # for a worker that is asked to stop


class Team:
    """The workers. If one ends, it is replaced.

    If `beside` is a checkout of another version, all workers are of that version at first, and `roll` decides how many
    are to come from this checkout.
    """

    def __init__(self, environment: dict[str, str], folder: Path, pool: str, beside: Path | None) -> None:
        self._environment = environment | {"CHAOS_JOURNAL": str(folder / "journal")}
        self._folder = folder
        self._pool = pool
        self._beside = beside
        self._wanted = 0 if beside else WORKERS  # how many workers are to come from this checkout
        self._ours: set[int] = set()
        self.started: Counter[str] = Counter()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._stopping: list[subprocess.Popen[bytes]] = []
        self._killed: list[subprocess.Popen[bytes]] = []
        self.signals: Counter[str] = Counter()
        self.gave_up = 0

    @property
    def killed(self) -> set[int]:
        return {worker.pid for worker in self._killed}

    def roll(self, progress: float) -> None:
        """Replace the other version by this one in the first half of a run, and this one by the other in the second."""
        if self._beside:
            self._wanted = round(WORKERS * (1 - abs(2 * progress - 1)))

    def fill(self) -> None:
        ended = [worker for worker in self._workers if worker.poll() is not None]
        self.gave_up += len(ended)  # for example because DynamoDB did not answer at its start
        self._workers = [worker for worker in self._workers if worker not in ended]
        while len(self._workers) < WORKERS:
            self._workers.append(self._start())

    def kill(self, number: signal.Signals, dice: random.Random) -> None:
        """Send the signal to a worker that is at work, and start another without waiting for it to end."""
        wait(lambda: self.fill() or self._at_work(), START_SECONDS)
        candidates = self._at_work() or self._workers
        worker = dice.choice([each for each in candidates if self._is_one_too_many(each)] or candidates)
        self._workers.remove(worker)
        if number == signal.SIGKILL:  # its children too, as if its container ended
            os.killpg(worker.pid, number)
        else:
            worker.send_signal(number)
        self.signals[number.name] += 1
        (self._killed if number == signal.SIGKILL else self._stopping).append(worker)
        self.fill()

    def stop(self) -> dict[int, int | None]:
        """Ask all workers to stop. Return the exit code of each that was ever asked, or None if it did not stop."""
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
        """Return the workers that have started with an email."""
        pids = {int(line.split()[0]) for line in (self._folder / "journal").read_text().splitlines()}
        return [worker for worker in self._workers if worker.pid in pids]

    def _count_ours(self) -> int:
        return sum(worker.pid in self._ours for worker in self._workers)

    def _is_one_too_many(self, worker: subprocess.Popen[bytes]) -> bool:
        surplus = self._count_ours() - self._wanted
        return surplus > 0 if worker.pid in self._ours else surplus < 0

    def _start(self) -> subprocess.Popen[bytes]:
        other = self._beside if self._count_ours() >= self._wanted else None
        root, programs = (other, other / ".venv" / "bin") if other else (ROOT, PROGRAMS)
        self.started["of the other version" if other else "of this version"] += 1
        environment = self._environment | ({"EMAIL_PROVIDER": "smtp"} if other else {})  # older versions take one name
        liveness = self._folder / f"liveness-{self.started.total()}"
        worker = start_celery(
            *("worker", "-l", "INFO", "-P", self._pool),
            app=worker_app(root),
            log_file=self._folder / "worker.log",  # for people; the judge does not read it
            environment=environment | {"PYTHONPATH": str(root), "EMAIL_LIVENESS_FILE": str(liveness)},
            cwd=self._folder,
            programs=programs,
        )
        if not other:
            self._ours.add(worker.pid)
        return worker

    def stalls(self) -> list[str]:
        """Return the stalls that the workers report about themselves."""
        found = []
        for file in self._folder.glob("liveness-*"):
            with suppress(OSError, ValueError):
                found.append(json.loads(file.read_text()).get("stalled", ""))
        return [stalled for stalled in found if stalled]


def worker_app(root: Path) -> str:
    """Return the module of a checkout's journaling worker, which older versions have in tests/slow."""
    folder = "support" if (root / "tests" / "support" / "chaos_worker.py").exists() else "slow"
    return f"tests.{folder}.chaos_worker"


def wait(condition: Callable[[], object], seconds: float) -> None:
    """Wait for a condition, but no longer than this. It may still be false after that."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
