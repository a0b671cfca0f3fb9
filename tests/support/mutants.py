"""Tests the tests: `make mutants` changes the modules that decide, and lists the changes that no test notices.

mutmut changes one expression at a time ([tool.mutmut] in pyproject.toml says in which modules) and runs the tests that
call the changed function. A change that survives is either equivalent, so that no test could notice it, or a test is
missing. mutmut cannot change tables outside functions, such as the transitions in emails/status.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "mutants" / "mutmut-cicd-stats.json"


def mutmut(*arguments: str, quiet: bool = True) -> str:
    command = [str(Path(sys.executable).parent / "mutmut"), *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE if quiet else None, text=True, check=True).stdout


def main() -> None:
    mutmut("run", "--max-children", "1", quiet=False)
    mutmut("export-cicd-stats")
    survivors = [name.strip() for line in mutmut("results").splitlines() for name, _, _ in [line.partition(":")]]
    for survivor in filter(None, survivors):
        click.echo(mutmut("show", survivor))
    counts = json.loads(RESULTS.read_text())
    noticed = counts["killed"] + counts["timeout"]
    click.echo(f"The tests notice {noticed} of {counts['total']} changes: {100 * noticed / counts['total']:.1f} %.")


if __name__ == "__main__":
    main()
