"""Runs Celery's programs (worker, flower, inspect), each in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROGRAMS = Path(sys.executable).parent


def start_celery(
    *arguments: str,
    log_file: Path,
    environment: Mapping[str, str],
    app: str = "tasks",
    cwd: Path | None = None,
    programs: Path = PROGRAMS,
) -> subprocess.Popen[bytes]:
    """Start `celery -A APP ...` in its own process group. Its output is appended to the log file."""
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [programs / "celery", "-A", app, *arguments],
            env=os.environ | environment,
            cwd=cwd,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and its children, if they are still running."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def running_celery(
    *arguments: str, log_file: Path, environment: Mapping[str, str], app: str = "tasks"
) -> Iterator[subprocess.Popen[bytes]]:
    """Start one of Celery's programs, and stop it at the end by SIGTERM, as an operator does."""
    process = start_celery(*arguments, log_file=log_file, environment=environment, app=app)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        kill(process)
