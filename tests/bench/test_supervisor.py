"""Whatever happens to the bench, every process that it started ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.sessions import cost, members

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]

# Starts a child, reports that both run, and ignores SIGTERM.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("started", flush=True)
while True: sum(range(100_000))
"""

# Starts the program above through a supervisor, as bench/running.py does, and passes on its output.
BENCH = f"""
import subprocess, sys
command = [sys.executable, "-m", "bench.supervisor", sys.executable, "-c", {STUBBORN!r}]
supervisor = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
print(supervisor.pid, flush=True)
supervisor.wait()
"""


@pytest.fixture
def bench() -> Callable[[], tuple[subprocess.Popen[str], int]]:
    """Return a function that starts a stand-in for the bench, and returns it and the session that it started."""

    def start() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen([sys.executable, "-c", BENCH], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        lines = {process.stdout.readline().strip() for _ in range(2)}
        return process, next(int(line) for line in lines - {"started"})

    return start


def test_a_bench_that_is_killed_takes_with_it_what_it_started(
    bench: Callable[[], tuple[subprocess.Popen[str], int]], wait_until: Callable[..., None]
) -> None:
    process, session = bench()
    with process:
        assert len(members(session)) == 2
        process.kill()
    wait_until(lambda: not members(session), what="nothing of the session is left")


def test_a_supervisor_ends_with_its_command() -> None:
    supervisor = [sys.executable, "-m", "bench.supervisor", sys.executable, "-c", "pass"]
    with subprocess.Popen(supervisor, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.wait(20) == 0


def test_a_session_costs_what_its_processes_do(
    bench: Callable[[], tuple[subprocess.Popen[str], int]], wait_until: Callable[..., None]
) -> None:
    process, session = bench()
    with process:
        before = cost([session])
        assert before.peak_rss_bytes > 2 * 5 * 2**20, "two Pythons"
        wait_until(lambda: cost([session]).cpu_seconds > before.cpu_seconds + 0.1, what="it burns CPU")
        assert cost([session]).cpu_seconds < time.monotonic()
        process.kill()
    wait_until(lambda: not members(session))
