"""What CONTRIBUTING.md tells people to type and to touch exists, and the hook that it promises is the one that runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
TYPED = [*re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE), *re.findall(r"`([^`\n]+)`", PAGE.replace("```", ""))]
TESTS = [line for line in TYPED if ".venv/bin/pytest " in line]
HOOK = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"][0]


def paths() -> set[str]:
    """Whatever on the page looks like a path, except what git ignores because `make` or a person creates it."""
    words = {word for line in TYPED for word in line.split()} | set(re.findall(r"\]\(([^):#]+)", PAGE))
    looks = re.compile(r"[\w.-]+/[\w./<>-]*|[A-Z]+\.md|Makefile|pyproject\.toml|\.env\.example")
    return {word for word in words if looks.fullmatch(word) and not word.startswith((".venv", ".tools"))}


def test_every_target_of_make_is_one() -> None:
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^\$ )make ([\w.-]+)", PAGE, re.MULTILINE))
    assert {"check", "dev", "mutants", "test"} <= named
    assert named <= targets


def test_every_path_is_one() -> None:
    named = paths()
    assert {"settings/model.py", "emails/providers/<name>.py", "docs/architecture.md", ".ci/run"} <= named
    # <name> stands for the name of a file that does not exist yet, in a folder that does.
    missing = [path for path in named if not (ROOT / path if "<" not in path else (ROOT / path).parent).exists()]
    assert not missing


@pytest.mark.slow
def test_every_command_that_runs_a_test_finds_one() -> None:
    """Collect once for all commands, because that takes seconds."""
    files = {command: re.findall(r"tests/\S+", command)[0] for command in TESTS}
    assert len(files) >= 3, "one test, one slow test, the screenshots"
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", *files.values()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.splitlines()
    for command, file in files.items():
        (word,) = re.findall(r" -k (\w+)", command) or [""]
        assert any(test.startswith(f"{file}::") and word in test for test in collected), command


def test_the_hook_runs_make_check() -> None:
    assert HOOK["entry"] == "make check"
    assert HOOK["language"] == "system", "the hook needs no environment of its own"


def test_the_page_is_not_too_long() -> None:
    assert len(PAGE.split()) <= 1800
