"""A container's health check: is the worker still receiving? The worker writes a small file, and the probe reads it.

    python -m celery_sqs.liveness FILE [--max-age SECONDS]

exits with 0 if every queue of the worker was received from within that time, or is parked because the worker holds as
many messages as it may. Otherwise it prints what is wrong and exits with 1. It sends no request to SQS.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kombu.log import get_logger

from celery_sqs.log import OnceAMinute

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_sqs.poller import Poller

complain = OnceAMinute(get_logger(__name__))

WRITE_EVERY_SECONDS = 5
MAX_AGE_SECONDS = 60  # three of the longest polls (20 s)


class LivenessFile:
    """Writes the liveness file atomically every five seconds, from its own thread, until `end` is called.

    `pollers` maps the names of queues to their pollers. `stalled` returns why the worker's consumer is stalled, or "".
    """

    def __init__(self, path: str, pollers: dict[str, Poller], stalled: Callable[[], str]) -> None:
        self._path = Path(path)
        self._pollers = pollers
        self._stalled = stalled
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="liveness", daemon=True).start()

    def end(self) -> None:
        self._ended.set()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._ended.is_set():
            queues = {queue: poller.figures() for queue, poller in list(self._pollers.items())}
            try:
                new = self._path.with_suffix(".new")
                new.write_text(json.dumps({"written_at": time.time(), "stalled": self._stalled(), "queues": queues}))
                new.replace(self._path)
            except OSError as error:
                complain("cannot write the liveness file: %s", error)
            self._ended.wait(WRITE_EVERY_SECONDS)


def what_is_wrong(state: dict[str, Any], now: float, max_age: float) -> str:
    """Return why the worker that wrote this state is not alive, or "" if it is."""
    if now - state["written_at"] > max_age:
        return f"the worker wrote its liveness file {now - state['written_at']:.0f} seconds ago"
    if stalled := state.get("stalled"):
        return f"stalled: {stalled}"
    if not state["queues"]:
        return "the worker does not consume any queue"
    for queue, poll in state["queues"].items():
        if not poll["parked"] and now - poll["last_receive_at"] > max_age:
            return f"the last receive from {queue} was {now - poll['last_receive_at']:.0f} seconds ago"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m celery_sqs.liveness", description="Is the worker alive?")
    parser.add_argument("file", type=Path, help="the transport option liveness_file")
    parser.add_argument("--max-age", type=float, default=MAX_AGE_SECONDS, help="seconds (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        wrong = what_is_wrong(json.loads(options.file.read_text()), time.time(), options.max_age)
    except (OSError, ValueError) as error:
        wrong = f"there is no liveness file to read: {error}"
    print(wrong or "alive")  # noqa: T201 (what a person reads is printed)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
