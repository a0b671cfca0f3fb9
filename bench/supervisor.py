"""Runs a command, and kills it with all its children when standard input ends: `python -m bench.supervisor COMMAND...`.

However the bench ends, even by SIGKILL, its end of that pipe is closed, so nothing that it started outlives it. The
supervisor must be started as the leader of a session.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

from bench.sessions import members


def main() -> None:
    """Run the command in the arguments until it ends or standard input ends."""
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_kill_when_stdin_ends, daemon=True).start()
    process.wait()
    _kill_all()


def _kill_when_stdin_ends() -> None:
    os.read(sys.stdin.fileno(), 1)  # a buffered read would abort the interpreter if it exits meanwhile
    _kill_all()


def _kill_all() -> None:
    while alive := members(os.getpid()):  # a process may fork while another is killed
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
