"""`email-service pause`, `resume` and `status` without an id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from emails import pause as pause_of_stage
from emails import send_rate
from emails.message import InvalidMessage, parse_message
from emails.pause import StagePause, who
from settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result


def test_a_pause_is_shown_with_who_and_why_until_it_is_resumed(run: Callable[..., Result]) -> None:
    assert "not paused" in run("status").output
    assert json.loads(run("status", "--json").output) == {"Paused": False}
    assert run("pause", "--reason", "provider down").exit_code == 0
    for command in ("status", "queues"):
        output = run(command).output
        assert " is paused since " in output
        assert ": provider down" in output
    shown = json.loads(run("status", "--json").output)
    assert (shown["Paused"], shown["Reason"], bool(shown["By"])) == (True, "provider down", True)
    assert "It is resumed." in run("resume").output
    assert "not paused" in run("status").output
    assert "was not paused" in run("resume").output
    assert "paused" not in run("queues").output


def test_the_figures_for_programs_stay_json_while_the_stage_is_paused(run: Callable[..., Result]) -> None:
    run("pause", "--reason", "provider down")
    result = run("queues", "--json")
    assert json.loads(result.stdout)
    assert "provider down" in result.stderr


@pytest.mark.parametrize("row", [pause_of_stage.ROW, send_rate.ROW], ids=["pause", "send rate"])
def test_no_email_can_have_the_id_of_a_row_of_our_own(row: str) -> None:
    with pytest.raises(InvalidMessage):
        parse_message(json.dumps({"email_id": row}))


def test_no_other_command_takes_the_pause_for_an_email(
    run: Callable[..., Result], settings: Settings, tmp_path: Path
) -> None:
    run("pause", "--reason", "provider down")
    pause = StagePause.from_settings(settings).read()
    assert run("sweep", "--position", str(tmp_path / "position")).exit_code == 0
    assert run("provision", "--backfill").exit_code == 0
    for options in (["--status", "Pending"], ["--recipient", "ada@example.com"], []):
        assert "pause" not in run("list", *options).stdout
    assert StagePause.from_settings(settings).read() == pause


def test_a_pause_needs_a_reason(run: Callable[..., Result], settings: Settings) -> None:
    assert run("pause").exit_code == 2
    assert run("pause", "--reason", " ").exit_code == 2
    assert StagePause.from_settings(settings).read() is None


class Sts:
    """AWS STS, whose answer is an ARN or an error."""

    def __init__(self, answer: str | Exception) -> None:
        self._answer = answer

    def get_caller_identity(self) -> dict[str, str]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return {"Arn": self._answer}


ARN = "arn:aws:iam::123456789012:user/ada"


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (ARN, ARN),
        (NoCredentialsError(), "the user"),
        (ClientError({"Error": {"Code": "AccessDenied"}}, "GetCallerIdentity"), "the user"),
    ],
)
def test_who_pauses_is_known_by_the_iam_identity_and_without_one_by_the_user_name(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception, name: str
) -> None:
    monkeypatch.setattr(pause_of_stage, "client", lambda *_: Sts(answer))
    monkeypatch.setattr("getpass.getuser", lambda: "the user")
    assert who(Settings(region="eu-central-1")) == name


def test_a_user_without_a_name_can_pause_a_local_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", fail)
    assert who(Settings()) == "an unnamed user"
