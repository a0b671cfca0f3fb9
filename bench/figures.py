"""Turns measurements into medians, ratios, targets and tables."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from bench.contenders import BY_SQS, CHAIN, FLOOR, GEVENT, GROUPED_FLOOR, STOCK, UNGROUPED, WORKER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.running import Measured

Summary = dict[str, Any]  # each number has its `_min` and `_max` beside it

PACKAGES = ("celery", "kombu", "boto3", "dramatiq", "dramatiq-sqs")
KINDS = {"receive": "Receive", "send": "Send", "delete": "Delete"}  # the first words of SQS's actions

ABOUT = """\
What an email costs in SQS requests, CPU and memory, and how fast a worker sends: this service, stock Celery, dramatiq,
and a bare boto3 loop, which is the floor. `make bench` writes this page, so do not edit it.

**Limits.** Trust the counts and the ratios, not the times. CPU and emails/s depend on this machine, which also runs the
server that stands in for AWS and adds none of AWS's latency. The ratio of emails/s is the least reliable: stock Celery
spends part of its time waiting, which no faster machine shortens, while the other workers are limited by one core. CPU
ms times emails/s shows how much of a core each used."""

COMPARED = """\
- `stock-threads`: Celery with kombu's own SQS transport.
- `chain-threads`, `chain-gevent`, `chain-prefork`: this service with `celery_sqs`, in three pools.
- `chain-ungrouped`: `chain-threads` without grouped requests, so that each read and write of a row is a request.
- `chain-by-sqs`: `chain-ungrouped` without hand-off too, so that each task's message goes through SQS.
- `dramatiq`: dramatiq with dramatiq-sqs. It and stock Celery need a second process that polls the raw queue.
- `floor-boto3`: a loop of boto3 calls, without a task queue.
- `floor-grouped`: the same loop with grouped requests, which shows how far the limit is.
- `worker`: this service as people run it, with all its queues."""

HOW = """\
Each contender has its own in-memory server in place of SQS and DynamoDB. It sends 100 emails to warm up, then takes
turns with the others, in an order that is shuffled for each round. It is stopped (SIGSTOP) in between, while its queue
is filled. A turn lasts from SIGCONT until every row is Sent and every queue is empty. The provider is the stub, and
each works on 32 emails at once.

Numbers are for one email, except for emails/s and memory. They are medians of the turns, with the minimum and maximum
in parentheses. `billed` counts SQS requests in units of 64 KB, as AWS bills them. CPU is the user and system time of
all processes of a contender, without the server. Memory is the sum of their peaks, so memory that forked processes
share is counted several times."""


@dataclass(frozen=True)
class Table:
    """A table for the terminal and for docs/figures.md."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def as_markdown(self) -> str:
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        return f"## {self.title}\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@dataclass(frozen=True)
class Target:
    """A figure that chain-threads should reach."""

    what: str
    value: float
    limit: float
    at_least: bool = False
    at_best: float | None = None  # the same for the contenders' best turns, which the machine disturbed least

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        best = "" if self.at_best is None else f" (comparing the best turns: {self.at_best:.2f})"
        return f"{'met' if self.is_met else 'MISSED'}: {self.what} {self.value:.2f} {sign} {self.limit:.2f}{best}"


def machine() -> dict[str, Any]:
    model = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "model": model[0] if model else platform.machine(),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def versions() -> dict[str, str]:
    return {package: version(package) for package in PACKAGES}


def summary(measured: list[Measured]) -> Summary:
    """Return what an email cost in these turns."""
    actions = sorted({action for one in measured for action in one.sqs})
    by_action = [_spread(action, (one.sqs.get(action, 0) / one.emails for one in measured)) for action in actions]
    return {
        "emails": measured[0].emails,
        **_spread("sqs_requests", (sum(one.sqs.values()) / one.emails for one in measured)),
        "sqs_by_action": {name: number for spread in by_action for name, number in spread.items()},
        **_spread("dynamodb_requests", (sum(one.dynamodb.values()) / one.emails for one in measured)),
        **_spread("cpu_ms", (one.cpu_seconds / one.emails * 1000 for one in measured)),
        **_spread("emails_per_s", (one.emails / one.seconds for one in measured)),
        **_spread("rss_mb", (one.peak_rss_bytes / 2**20 for one in measured)),
    }


def billed(measured: list[Measured]) -> Summary:
    """Return how many units of 64 KB SQS bills for an email."""
    return _spread("sqs_units", (sum(one.sqs_units.values()) / one.emails for one in measured))


def latency(seconds: list[float]) -> Summary:
    """Return the median and the 95th percentile in milliseconds."""
    twentieths = quantiles(seconds, n=20)
    return {"emails": len(seconds), "p50_ms": round(twentieths[9] * 1000, 1), "p95_ms": round(twentieths[18] * 1000, 1)}


def targets(result: dict[str, Any]) -> Iterable[Target]:
    """Return what chain-threads should reach, mostly as ratios to others in the same run."""
    runs, large = result["runs"], result["large_rows"]["runs"]
    stock, chain = runs[STOCK], runs[CHAIN]
    yield Target("SQS requests an email", chain["sqs_requests"], 0.22)
    if drain := result["drain"]:
        yield Target("SQS requests an email while it drains a full queue", drain[CHAIN]["sqs_requests"], 0.205)
    yield Target("DynamoDB requests an email", chain["dynamodb_requests"], 0.35)
    for base, limit in ((STOCK, 0.22), (FLOOR, 0.8)):
        cpu, best_cpu = (chain[name] / runs[base][name] for name in ("cpu_ms", "cpu_ms_min"))
        yield Target(f"CPU ÷ {base}", cpu, limit, at_best=best_cpu)
    rate, best_rate = (chain[name] / stock[name] for name in ("emails_per_s", "emails_per_s_max"))
    yield Target(f"emails/s ÷ {STOCK}", rate, 8, at_least=True, at_best=best_rate)
    yield Target(f"CPU of an email of 100 KB ÷ {BY_SQS}", large[CHAIN]["cpu_ms"] / large[BY_SQS]["cpu_ms"], 1)
    yield Target(f"CPU of {GEVENT} ÷ {BY_SQS}", runs[GEVENT]["cpu_ms"] / runs[BY_SQS]["cpu_ms"], 1)
    for what, waits in (
        ("", result["latency"]),
        (f", with {result['added_latency_ms']:g} ms added", result["added_latency"]),
    ):
        yield Target(f"p50 of a single email, ms{what}", waits[CHAIN]["p50_ms"], waits[BY_SQS]["p50_ms"])
    yield Target("SQS requests a minute of an idle worker with all its queues", result["idle"][WORKER], 12)
    if turns := result["long_drain"]:
        growth = turns[-1]["rss_mb"] / turns[0]["rss_mb"]
        yield Target(f"peak memory after {turns[-1]['emails']} emails ÷ after {turns[0]['emails']}", growth, 1.05)


def tables(result: dict[str, Any]) -> Iterable[Table]:
    for runs, units, size in (
        (result["runs"], result["billed"], "2 KB"),
        (result["large_rows"]["runs"], result["large_rows"]["billed"], "100 KB"),
    ):
        emails = runs[STOCK]["emails"]
        yield _costs(f"An email of {size} ({emails} in each turn)", runs, units)
        yield _ratios(f"Ratios for an email of {size}", runs)
    yield _shares(result["runs"])
    emails, added = result["latency"][STOCK]["emails"], f"{result['added_latency_ms']:g} ms added"
    pairs = {name: (one, result["added_latency"][name]) for name, one in result["latency"].items()}
    yield Table(
        f"The latency of a single email, from its raw message until it is Sent ({emails} emails, one after another)",
        ("", "p50 ms", "p95 ms", f"p50 ms, {added} to DynamoDB", f"p95 ms, {added} to DynamoDB"),
        [(name, *(f"{one[key]:.1f}" for one in pair for key in ("p50_ms", "p95_ms"))) for name, pair in pairs.items()],
    )
    yield Table(
        "An idle worker",
        ("", "SQS requests a minute"),
        [(name, f"{requests:.1f}") for name, requests in result["idle"].items()],
    )
    if drain := result["drain"]:
        yield Table(
            f"Sending {drain[CHAIN]['emails']} emails",
            ("", "seconds", "emails/s", "SQS requests an email"),
            [
                (name, f"{one['seconds']:.0f}", f"{one['emails_per_s']:.0f}", f"{one['sqs_requests']:.2f}")
                for name, one in drain.items()
            ],
        )
    if turns := result["long_drain"]:
        yield Table(
            f"The memory of one {CHAIN} worker",
            ("emails sent", *(str(turn["emails"]) for turn in turns)),
            [("peak MB", *(f"{turn['rss_mb']:.0f}" for turn in turns))],
        )


def conditions(result: dict[str, Any]) -> str:
    """Describe in one line the machine and the versions that were measured."""
    here = result["machine"]
    where = f"{here['cores']} cores of {here['model']}, Python {here['python']}, {here['platform']}"
    what = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return f"{where}; {what}; {result['repeats']} turns each"


def as_document(result: dict[str, Any], met: list[Target]) -> str:
    """Return the text of docs/figures.md."""
    parts = [
        "# Figures",
        ABOUT,
        "![SQS requests, CPU and throughput compared with stock Celery](images/bench.svg)",
        COMPARED,
        *(table.as_markdown() for table in tables(result)),
        "## Targets for chain-threads",
        "\n".join(f"- {target}" for target in met),
        "## How it is measured",
        HOW,
        f"The last run: {conditions(result)}.",
    ]
    return "\n\n".join(parts) + "\n"


def as_json(result: dict[str, Any]) -> str:
    """Return the text of bench/latest.json."""
    return json.dumps(result, indent=2) + "\n"


def _spread(name: str, values: Iterable[float]) -> Summary:
    numbers = sorted(values)
    spread = {name: median(numbers), f"{name}_min": numbers[0], f"{name}_max": numbers[-1]}
    return {key: round(number, 3) for key, number in spread.items()}


def _cell(one: Summary, name: str, digits: int) -> str:
    least, most = (f"{one[f'{name}_{end}']:.{digits}f}" for end in ("min", "max"))
    return f"{one[name]:.{digits}f}" + (f" ({least} to {most})" if least != most else "")


def _kinds(one: Summary) -> str:
    """Return how many of an email's requests receive, send and delete."""
    actions = one["sqs_by_action"]
    sums = [
        sum(n for name, n in actions.items() if name.startswith(kind) and "_" not in name) for kind in KINDS.values()
    ]
    return "/".join(f"{number:.2f}" for number in sums)


def _costs(title: str, runs: dict[str, Summary], units: dict[str, Summary]) -> Table:
    header = ("", "SQS requests", "/".join(KINDS), "billed", "DynamoDB", "CPU ms", "emails/s", "memory MB")
    rows: list[tuple[str, ...]] = [
        (
            name,
            _cell(one, "sqs_requests", 2),
            _kinds(one),
            _cell(units[name], "sqs_units", 2),
            _cell(one, "dynamodb_requests", 2),
            _cell(one, "cpu_ms", 1),
            _cell(one, "emails_per_s", 0),
            _cell(one, "rss_mb", 0),
        )
        for name, one in runs.items()
    ]
    return Table(title, header, rows)


def _shares(runs: dict[str, Summary]) -> Table:
    """Return what an email's CPU goes into, as differences between contenders that do more and more."""
    cpu = {name: float(one["cpu_ms"]) for name, one in runs.items()}
    parts = {
        f"{GROUPED_FLOOR}: the requests, the decisions and the message": cpu[GROUPED_FLOOR],
        f"{CHAIN} adds Celery and celery_sqs": cpu[CHAIN] - cpu[GROUPED_FLOOR],
        f"{UNGROUPED} adds a request for each read and write": cpu[UNGROUPED] - cpu[CHAIN],
        f"{BY_SQS} adds two messages on SQS": cpu[BY_SQS] - cpu[UNGROUPED],
    }
    rows: list[tuple[str, ...]] = [(what, f"{ms:.1f}", f"{ms / cpu[CHAIN]:.2f}") for what, ms in parts.items()]
    return Table("What an email of 2 KB costs, part by part", ("", "CPU ms", f"÷ {CHAIN}"), rows)


def _ratios(title: str, runs: dict[str, Summary]) -> Table:
    columns = [(name, base) for base in (STOCK, FLOOR) for name in ("sqs_requests", "cpu_ms", "emails_per_s")]
    columns.append(("cpu_ms", GROUPED_FLOOR))
    words = {"sqs_requests": "SQS requests", "cpu_ms": "CPU", "emails_per_s": "emails/s"}
    header = ("", *(f"{words[name]} ÷ {base}" for name, base in columns))
    rows = [(run, *(f"{one[name] / runs[base][name]:.2f}" for name, base in columns)) for run, one in runs.items()]
    return Table(title, header, rows)
