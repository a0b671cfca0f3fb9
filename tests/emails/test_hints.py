"""The command lines that other modules print for a person to type."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from emails.hints import emulator_hint, hint

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_in_an_active_environment_it_is_the_program_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    assert hint("status", "order 1") == "email-service status 'order 1'"
    assert hint("resolve", "order-1", "--resend") == "email-service resolve order-1 --resend"
    assert hint("dead-letters list") == "email-service dead-letters list"
    assert hint("provision") == "email-service provision"


def test_elsewhere_it_is_the_program_s_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (ROOT / hint("status", "order-1").split()[0]).samefile(PROGRAMS / "email-service")
    monkeypatch.chdir(tmp_path)
    assert hint("status", "order-1") == f"{PROGRAMS / 'email-service'} status order-1"


@pytest.mark.parametrize(
    ("called", "command", "expected"),
    [
        ("make", ("status", "order-1"), "make status EMAIL_ID=order-1"),
        ("make", ("put", "examples/email.json"), "make put ROW=examples/email.json"),
        ("make", ("provision",), "make provision"),
        ("make PORT=5000", ("enqueue", "order-1"), "make enqueue PORT=5000 EMAIL_ID=order-1"),
        ("make", ("resolve", "order-1", "--sent"), "PROGRAM resolve order-1 --sent"),
        ("make", ("status", "order 1"), "PROGRAM status 'order 1'"),
        ("make", ("status", "order-$1"), "PROGRAM status 'order-$1'"),
        (
            "make PORT=5000 EMAIL_STAGE=try",
            ("resolve", "1", "--sent"),
            "EMAIL_ENDPOINT_URL=http://127.0.0.1:5000 EMAIL_STAGE=try PROGRAM resolve 1 --sent",
        ),
    ],
)
def test_under_make_it_is_a_target_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, called: str, command: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")  # as `uv run` sets it, but only for the program
    monkeypatch.setenv("HINTS_FOR", called)
    program = PROGRAMS / "email-service"
    shown = program.relative_to(ROOT) if program.is_relative_to(ROOT) else program
    assert hint(*command) == expected.replace("PROGRAM", str(shown))


@pytest.mark.parametrize(
    ("called", "endpoint", "expected"),
    [
        ("", "http://localhost:4566", "email-service emulator"),
        ("", "http://127.0.0.1:5000", "email-service emulator --port 5000"),
        ("make", "http://localhost:4566", "make emulator"),
        ("make", "http://127.0.0.1:5000", "make emulator PORT=5000"),
        ("make PORT=5000", "http://127.0.0.1:5000", "make emulator PORT=5000"),
    ],
)
def test_an_emulator_that_does_not_run_can_be_started_on_its_port(
    monkeypatch: pytest.MonkeyPatch, called: str, endpoint: str, expected: str
) -> None:
    monkeypatch.setenv("PATH", f"{PROGRAMS}:{os.environ['PATH']}")
    monkeypatch.setenv("HINTS_FOR", called)
    assert emulator_hint(endpoint) == expected
