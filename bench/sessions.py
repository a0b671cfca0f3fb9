"""Finds the processes of a session (setsid(2)), and what they have cost.

It reads /proc, because a worker's children count too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

# Fields of /proc/<pid>/stat, counted after the command, which may contain spaces and parentheses (proc_pid_stat(5)).
STATE, SESSION = 0, 3
TIMES = slice(11, 15)  # utime, stime, cutime, cstime: of the process, and of children that it has waited for


@dataclass(frozen=True)
class Cost:
    """What all processes of some sessions have cost together."""

    cpu_seconds: float
    peak_rss_bytes: int  # the sum of all peaks, in which memory that forked processes share counts several times


def members(session: int) -> list[int]:
    """Return the living processes of the session, except its leader."""
    return [pid for pid, stat in _stats() if pid != session == int(stat[SESSION]) and stat[STATE] not in "ZX"]


def cost(sessions: list[int]) -> Cost:
    """Return what the processes of the sessions, except their leaders, have cost since they started."""
    ticks, peak = 0, 0
    for pid, stat in _stats():
        if int(stat[SESSION]) in sessions and pid not in sessions:
            ticks += sum(map(int, stat[TIMES]))
            peak += _peak_rss(pid)
    return Cost(ticks / TICKS_A_SECOND, peak)


def _stats() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                text = (folder / "stat").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue  # the process has ended
            yield int(folder.name), text.rpartition(")")[2].split()


def _peak_rss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]  # a zombie has no such line
    return sum(kilobytes) * 1024
