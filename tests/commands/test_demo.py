"""The demo, which is the first thing that a new user runs."""

from __future__ import annotations

from collections import Counter
from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from commands import main
from commands.demo import CASES
from tests.support.smtp_server import SmtpServer, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result


@pytest.mark.parametrize("server", ["localhost", ":1025", "a b:25", "localhost:", "localhost:smtp", "localhost:65536"])
def test_a_mail_catcher_is_a_host_and_a_port(run: Callable[..., Result], server: str) -> None:
    result = run("demo", "--smtp", server)
    assert result.exit_code == 2
    assert f"'{server}' is not a HOST:PORT such as localhost:1025" in result.output


@pytest.mark.slow
def test_the_emails_come_to_a_mail_catcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.demo.mkdtemp", lambda **_: str(tmp_path))
    with running(SmtpServer()) as server:
        result = CliRunner().invoke(main, ["demo", "--smtp", f"127.0.0.1:{server.port}"])
    assert result.exit_code == 0, result.output
    assert f"127.0.0.1:{server.port}" in result.output
    subjects = Counter(str(message_from_bytes(m.content, policy=default)["Subject"]) for m in server.messages)
    expected = [case.row for case in CASES if case.row and case.ends == "Sent" and "SendVia" not in case.row]
    assert subjects == Counter(row["Subject"] for row in expected if row["EmailStatus"] == "Pending")
    assert len(list(tmp_path.glob("*.eml"))) == 1, "the stub's"


@pytest.mark.slow
def test_the_deliveries_that_a_service_reports_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.demo.mkdtemp", lambda **_: str(tmp_path))
    result = CliRunner().invoke(main, ["demo", "--provider", "postmark"])
    assert result.exit_code == 0, result.output
    expected = [case.row for case in CASES if case.row and case.ends == "Sent" and "SendVia" not in case.row]
    pending = sum(row["EmailStatus"] == "Pending" for row in expected)
    assert pending == result.output.count("Delivered") > 0


def test_an_inbox_and_a_service_exclude_each_other(run: Callable[..., Result]) -> None:
    result = run("demo", "--smtp", "localhost:1025", "--provider", "postmark")
    assert result.exit_code == 2
    assert "Give --smtp or --provider, not both." in result.output
