"""Callers of remote control that do not wait for replies: `python -m tests.support.callers --calls 200 --seed 7`.

The environment names the stage, as for a worker. Each call is made in its own thread, and so has its own reply queue.
It waits for replies for a random time, which is often much too short, or watches events for that time. About half of
the callers then delete their queue, as a process does when it exits. The others leave it, as a killed process does. The
program prints a line for each call.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from botocore.exceptions import BotoCoreError, ClientError
from kombu.exceptions import OperationalError

from tasks import app

LONGEST_SECONDS = 0.4
AT_ONCE = 6


def ask(seconds: float) -> bool:
    return bool(app.control.inspect(timeout=seconds).ping())


def watch(seconds: float) -> bool:
    ends_at = time.monotonic() + seconds
    with app.connection_for_read() as connection, suppress(TimeoutError):
        receiver = app.events.Receiver(connection, handlers={"*": lambda _: None})
        receiver.capture(limit=None, timeout=max(0.01, ends_at - time.monotonic()), wakeup=True)
    return True


def call(dice: random.Random) -> None:
    answered = False
    with suppress(OperationalError, BotoCoreError, ClientError):  # requests to SQS may be made to fail
        answered = dice.choice([ask, ask, ask, watch])(dice.uniform(0.01, LONGEST_SECONDS))
    if dice.random() < 0.5:
        with app.connection_for_write() as connection, suppress(BotoCoreError, ClientError):
            connection.default_channel.monitoring.queues.close(app.control.mailbox.reply_queue.name)
    sys.stdout.write("answered\n" if answered else "unanswered\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    # Each round has new threads, so that no thread makes more than one call.
    for first in range(0, options.calls, AT_ONCE):
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in range(min(AT_ONCE, options.calls - first)):
                threads.submit(call, random.Random(dice.random())).add_done_callback(lambda done: done.result())
    os._exit(0)


if __name__ == "__main__":
    main()
