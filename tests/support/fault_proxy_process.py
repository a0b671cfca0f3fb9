"""Runs the fault proxy and other servers of this folder, each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@contextmanager
def running_server(module: str, *options: str) -> Iterator[str]:
    """Run a module of this folder, and give the first line that it prints: its URL or port."""
    command = [sys.executable, "-m", f"tests.support.{module}", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@contextmanager
def running_fault_proxy(
    upstream: str, seed: int, rates: dict[str, float], journal: Path | None = None
) -> Iterator[str]:
    options = ["--upstream", upstream, "--seed", str(seed), "--rates", json.dumps(rates)]
    with running_server("fault_proxy", *options, *(["--journal", str(journal)] if journal else [])) as url:
        yield url


def ask(proxy: str, question: str) -> Counter[str]:
    """Switch the proxy's faults `on` or `off`, or ask for its `counts`."""
    with urllib.request.urlopen(f"{proxy}/_fault/{question}", timeout=30) as response:
        return Counter(json.load(response))
