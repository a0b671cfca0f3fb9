"""The Makefile, as somebody uses it who has only read `make help`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, without what a make that runs this test has set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EMAIL_", "MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=kept | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("target", re.findall(r"^(\w+):.*\n\t\$\(call needs,", MAKEFILE, re.MULTILINE))
def test_a_target_without_its_variable_says_how_to_give_it(target: str) -> None:
    result = make(target)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    (example,) = re.findall(rf"is missing\. For example: (make {target} \w+=[\w./-]+)\.", line)
    assert re.search(rf"^{target}: .*: {re.escape(example)}$", MAKEFILE, re.MULTILINE), "the help has the same example"


def test_every_target_that_takes_an_email_needs_its_variable() -> None:
    recipes = re.findall(r"^(\w+):.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    takes = {target: recipe for target, recipe in recipes if re.search(r"\$\((EMAIL_ID|ROW)\)", recipe)}
    assert {"enqueue", "put", "send", "status"} <= takes.keys()
    assert all("$(call needs," in recipe for recipe in takes.values())


def test_a_port_on_the_command_line_names_the_emulator_of_every_target() -> None:
    result = make("enqueue", "EMAIL_ID=test-1", "PORT=9")
    assert result.returncode == 2
    assert "http://127.0.0.1:9" in result.stderr
    assert "(`make emulator PORT=9`)" in result.stderr


def test_a_port_in_the_environment_names_no_emulator() -> None:
    result = make("status", "EMAIL_ID=test-1", PORT="9", EMAIL_ENDPOINT_URL="http://127.0.0.1:8")
    assert "http://127.0.0.1:8" in result.stderr


def test_the_argument_email_id_is_no_unknown_setting() -> None:
    assert "EMAIL_ID is not a setting" not in make("status", "EMAIL_ID=test-1", "PORT=9").stderr


def test_another_python_rebuilds_the_environment(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    synced = tmp_path / "synced"
    uv = tmp_path / ".tools" / "bin" / "uv"
    other = tmp_path / "other-python"
    for program, script in ((uv, f"echo $UV_PYTHON >> {synced}; mkdir -p .venv"), (other, "exit 0")):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    for python in ("python3", "python3", str(other), str(other), "python3"):
        assert make("-C", str(tmp_path), ".venv/installed", f"PYTHON={python}").returncode == 0
    assert synced.read_text().split() == ["python3", str(other), "python3"]


def test_a_python_that_is_missing_is_named(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    result = make("-C", str(tmp_path), ".tools/python", "PYTHON=python0")
    assert result.returncode == 2
    assert "There is no Python python0." in result.stderr
