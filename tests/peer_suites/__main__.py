"""kombu's and Celery's own tests on celery_sqs: `make peer-suites`, see CONTRIBUTING.md."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rich.console import Console
from rich.table import Table

from commands.emulator import running_emulator
from tests.conftest import free_port
from tests.peer_suites.expected import Comparison, Kind, compare, load
from tests.peer_suites.sources import CACHE
from tests.peer_suites.suites import BROKERS, SUITES, Results, Services, Suite, run

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ("passed", "skipped", "failed as expected", "failed unexpectedly", "passed unexpectedly", "seconds")


@contextmanager
def running_redis() -> Iterator[int]:
    """Debian's redis-server on a free port, its data in memory; gives the port."""
    program = shutil.which("redis-server")
    if not program:
        raise click.ClickException("There is no redis-server. Install it (Debian: apt-get install redis-server).")
    port = free_port()
    with TemporaryDirectory() as folder, Redis(port=port) as redis:
        process = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    redis.ping()
                    break
                except RedisConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(10)


@click.command()
@click.option("--broker", type=click.Choice(BROKERS), default="ours", help="What the suites run on.", show_default=True)
@click.option("-k", "selected", default="", help="Passed to pytest; the list's other entries are not missed.")
@click.argument("names", nargs=-1, metavar="[SUITE]...")
def main(broker: str, selected: str, names: tuple[str, ...]) -> None:
    """Run kombu's and Celery's own SUITEs, all of them by default, and compare with expected_failures.toml.

    On `ours` exit with 1 if anything differs from the list. On `stock` (kombu's own SQS transport) and `redis` only
    tell what fails; on `redis`, also which entries of the list say something else of Redis.
    """
    if unknown := set(names) - {suite.name for suite in SUITES}:
        raise click.BadParameter(f"{', '.join(unknown)}: the suites are {', '.join(suite.name for suite in SUITES)}.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as Ctrl-C: stop what was started
    os.nice(10)  # the suites take an hour of a machine on which somebody works
    suites = [suite for suite in SUITES if not names or suite.name in names]
    if broker == "redis":
        suites = [suite for suite in suites if suite.redis_file]
    console = Console(width=None if sys.stdout.isatty() else 160, soft_wrap=True)
    table = Table("suite", *COLUMNS)
    as_expected = True
    with running_emulator(free_port()) as sqs, running_redis() as redis_port:
        for suite in suites:
            with Redis(port=redis_port) as redis:
                redis.flushall()
            console.print(f"{suite.name} on {broker} ...")
            results = run(suite, broker, Services(sqs, redis_port), selected)
            comparison = _judge(console, suite, broker, results, partial=bool(selected))
            as_expected = as_expected and comparison.as_expected
            figures = (
                len(results.passed),
                len(results.skipped),
                len(comparison.expected),
                len(comparison.unexpected),
                len(comparison.passed_unexpectedly),
                round(results.seconds),
            )
            table.add_row(suite.name, *map(str, figures))
    console.print(table)
    if broker == "ours" and (defects := [group.reason for group in load() if group.kind is Kind.DEFECT]):
        console.print("Among what is expected are defects:", *defects, sep="\n  ", markup=False, highlight=False)
    console.print(f"The suites' output is in {CACHE.name}/reports/{broker}.")
    sys.exit(0 if as_expected or broker == "stock" else 1)


def _judge(console: Console, suite: Suite, broker: str, results: Results, *, partial: bool) -> Comparison:
    """Compare, and tell what differs."""
    groups = load()
    if broker == "redis":
        groups = [group for group in groups if group.redis == "fail"]
    comparison = compare(suite.name, results, [] if broker == "stock" else groups)
    if partial:
        comparison.unknown.clear()
    for test, what in comparison.unexpected.items():
        console.print(f"  failed unexpectedly: {test}: {what}", markup=False, highlight=False)
    for test in comparison.passed_unexpectedly:
        console.print(f"  passed unexpectedly: {test}", markup=False, highlight=False)
    for pattern in comparison.unknown:
        console.print(f"  no such test: {pattern}", markup=False, highlight=False)
    return comparison


if __name__ == "__main__":
    main()
