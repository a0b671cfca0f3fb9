"""The benchmark: `make bench N=250`. It compares the contenders on the stand-in and writes down what they cost.

The contenders take short turns while the others are stopped, so that anything else the machine does affects all of them
alike. Their order is shuffled for each round, because a contender's place in the order changes its figures. Each has
its own stand-in and its own processes.
"""

from __future__ import annotations

import argparse
import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable

from bench import figures
from bench.chart import chart
from bench.contenders import BY_SQS, CHAIN, CONTENDERS, STOCK, UNGROUPED, WORKER
from bench.running import ROOT, Stuck, running

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.running import Measured

SMALL_BYTES, LARGE_BYTES = 2 * 1024, 100 * 1024
LARGE_SHARE = 5  # a fifth of the emails is enough, since each takes so much longer
SINGLE_EMAILS = 30
SETTLE_SECONDS = 20  # longer than any long poll that is in progress
DRAINS = 10  # long enough to see memory grow
IDLE_SECONDS = 180  # each queue is polled three times a minute, so one minute would be off by a third

LEAST_WIDTH = 150  # the width of the widest table

console = Console(highlight=False)
console.width = max(console.width, LEAST_WIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--emails", type=int, default=250, help="emails a turn (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each contender (default: %(default)s)")
    parser.add_argument(
        "--drain", type=int, default=5000, help=f"emails to drain {DRAINS} times, 0 for none (default: %(default)s)"
    )
    parser.add_argument(
        "--latency",
        type=float,
        default=5,
        help="milliseconds added to DynamoDB's answers when single emails are measured again (default: %(default)s)",
    )
    options = parser.parse_args()
    start = time.monotonic()
    try:
        result = _measure(options.emails, options.repeats, options.drain, options.latency)
    except Stuck as stuck:
        raise SystemExit(str(stuck)) from None
    targets = list(figures.targets(result))
    for table in figures.tables(result):
        _print(table)
    for target in targets:
        console.print(str(target))
    for path, text in (
        ("bench/latest.json", figures.as_json(result)),
        ("docs/figures.md", figures.as_document(result, targets)),
        ("docs/images/bench.svg", chart(result["runs"])),
    ):
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text)
        console.print(f"wrote {path}")
    console.print(f"took {(time.monotonic() - start) / 60:.1f} minutes")


def _measure(emails: int, repeats: int, drain: int, latency_ms: float) -> dict[str, Any]:
    result: dict[str, Any] = {"machine": figures.machine(), "versions": figures.versions(), "repeats": repeats}
    console.print(f"{figures.conditions(result)}; {emails} emails a turn")
    runs = _by_turns(SMALL_BYTES, emails, repeats)
    large = _by_turns(LARGE_BYTES, max(1, emails // LARGE_SHARE), repeats)
    return result | {
        **_summaries(runs),
        "large_rows": _summaries(large),
        "latency": _one_at_a_time(0),
        "added_latency_ms": latency_ms,
        "added_latency": _one_at_a_time(latency_ms),
        "idle": _idle(),
        **(_drains(drain) if drain else {"drain": {}, "long_drain": []}),
    }


def _drains(emails: int) -> dict[str, Any]:
    """Drain a full queue: once with stock Celery, and several times with one worker of ours."""
    drains = _by_turns(SMALL_BYTES, emails, 1, (STOCK,)) | _by_turns(SMALL_BYTES, emails, DRAINS, (CHAIN,))
    return {
        "drain": {
            name: {"seconds": round(turns[0].seconds, 1), **figures.summary(turns[:1])}
            for name, turns in drains.items()
        },
        "long_drain": [
            {"emails": number * emails, "rss_mb": round(one.peak_rss_bytes / 2**20, 1)}
            for number, one in enumerate(drains[CHAIN], 1)
        ],
    }


def _by_turns(
    row_bytes: int, emails: int, repeats: int, names: Iterable[str] = CONTENDERS
) -> dict[str, list[Measured]]:
    measured: dict[str, list[Measured]] = {name: [] for name in names}
    with ExitStack() as stack:
        contenders = {}
        for name in measured:
            contenders[name] = stack.enter_context(running(name, row_bytes))
            contenders[name].stand_still()
        for _ in range(repeats):
            for name, contender in random.sample(list(contenders.items()), len(contenders)):
                measured[name].append(contender.measure(emails))
                _say(name, row_bytes, measured[name][-1])
    return measured


def _say(name: str, row_bytes: int, one: Measured) -> None:
    requests, cpu_ms = sum(one.sqs.values()) / one.emails, one.cpu_seconds / one.emails * 1000
    console.print(
        f"{name:<14} {row_bytes // 1024:>3} KB {one.emails:>5} emails {one.emails / one.seconds:>5.0f}/s"
        f" {cpu_ms:>5.1f} ms CPU {requests:>5.2f} SQS requests"
    )


def _summaries(runs: dict[str, list[Measured]]) -> dict[str, Any]:
    return {
        "runs": {name: figures.summary(measured) for name, measured in runs.items()},
        "billed": {name: figures.billed(measured) for name, measured in runs.items()},
    }


def _one_at_a_time(latency_ms: float) -> dict[str, Any]:
    """Measure single emails, which are given to the workers in turn."""
    with ExitStack() as stack:
        contenders = {
            name: stack.enter_context(running(name, SMALL_BYTES, latency_ms=latency_ms))
            for name in (STOCK, BY_SQS, UNGROUPED, CHAIN)
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(SINGLE_EMAILS):
            for name, contender in contenders.items():
                seconds[name].append(contender.latency())
    return {name: figures.latency(of_one) for name, of_one in seconds.items()}


def _idle() -> dict[str, float]:
    """Measure how many requests a minute workers send to SQS if there is nothing to do."""
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(running(name, SMALL_BYTES)) for name in (STOCK, CHAIN, WORKER)}
        time.sleep(SETTLE_SECONDS)
        for contender in contenders.values():
            contender.standin.look("/reset-counts")
        time.sleep(IDLE_SECONDS)
        counts = {name: contender.standin.look("/counts")["sqs"] for name, contender in contenders.items()}
    return {name: sum(actions.values()) * 60 / IDLE_SECONDS for name, actions in counts.items()}


def _print(table: figures.Table) -> None:
    shown = RichTable(title=table.title, title_justify="left", box=SIMPLE)
    for number, name in enumerate(table.header):
        shown.add_column(name, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


if __name__ == "__main__":
    main()
