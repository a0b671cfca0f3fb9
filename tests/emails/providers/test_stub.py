"""The stub: which emails it accepts, what it keeps, and how it fails when it is told to."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from emails.email import Email
from emails.mime import message_id
from emails.providers.contract import PermanentError, TemporaryError, UnknownResultError
from emails.providers.stub import StubProvider, StubSettings
from settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES = {"temporary": TemporaryError, "permanent": PermanentError, "unknown": UnknownResultError}


def test_every_email_is_accepted_with_its_own_message_id(row: dict[str, Any]) -> None:
    email = Email.from_row(row)
    receipt = StubProvider().send(email)
    assert (receipt.provider, receipt.message_id) == ("stub", message_id(email))
    assert "ada" not in receipt.response


def test_an_outbox_has_one_file_an_email_that_any_mail_program_opens(row: dict[str, Any], tmp_path: Path) -> None:
    stub = StubProvider(tmp_path / "made" / "outbox")
    for email_id in ("../../escaped/1", "2", "2"):
        stub.send(Email.from_row({**row, "EmailId": email_id, "Subject": f"About {email_id}"}))
    files = list((tmp_path / "made" / "outbox").glob("*.eml"))
    subjects = sorted(message_from_bytes(file.read_bytes(), policy=default)["Subject"] for file in files)
    assert subjects == ["About ../../escaped/1", "About 2"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_without_an_outbox_nothing_is_written(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    StubProvider().send(Email.from_row(row))
    assert list(tmp_path.iterdir()) == []


def test_on_the_local_emulator_the_outbox_has_a_default_and_the_receipt_names_the_file(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emails.providers.stub.LOCAL_OUTBOX", Path("outbox"))
    monkeypatch.chdir(tmp_path)
    receipt = StubProvider.from_settings(Settings()).send(Email.from_row(row))
    (file,) = tmp_path.glob("outbox/*.eml")
    assert receipt.response.endswith(f"; written to {file.relative_to(tmp_path)}")


@pytest.mark.parametrize(
    ("outbox", "region"), [(None, "eu-central-1"), ("none", "localstack"), ("none", "eu-central-1")]
)
def test_on_aws_or_with_none_nothing_is_written(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outbox: str | None, region: str
) -> None:
    monkeypatch.setattr("emails.providers.stub.LOCAL_OUTBOX", Path("outbox"))
    if outbox:
        monkeypatch.setenv("EMAIL_STUB_OUTBOX", outbox)
    monkeypatch.chdir(tmp_path)
    receipt = StubProvider.from_settings(Settings(region=region)).send(Email.from_row(row))
    assert list(tmp_path.iterdir()) == []
    assert receipt.response == "accepted by the stub, which delivers nothing"


def test_an_outbox_that_cannot_be_written_fails_temporarily_and_says_why(row: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(TemporaryError, match="EMAIL_STUB_OUTBOX: File exists"):
        StubProvider(tmp_path / "outbox").send(Email.from_row(row))


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("recipients", ["RecipientsTo", "RecipientsCc", "RecipientsBcc"])
def test_a_recipient_to_fail_for_fails_and_nothing_is_kept(
    row: dict[str, Any], tmp_path: Path, failure: str, recipients: str
) -> None:
    row |= {"RecipientsTo": ["ok@example.com"], "RecipientsCc": [], "RecipientsBcc": []}
    row[recipients] = ["ok@example.com", "Bad <bad@example.com>"]
    stub = StubProvider(tmp_path, {"bad@example.com": failure})
    with pytest.raises(FAILURES[failure]) as raised:
        stub.send(Email.from_row(row))
    assert "bad" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_others_are_accepted_meanwhile(row: dict[str, Any]) -> None:
    StubProvider(failures={"bad@example.com": "permanent"}).send(Email.from_row(row))


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_may_be_of_the_first_attempts_only(row: dict[str, Any], failure: str) -> None:
    stub = StubProvider(failures={"ada@example.com": f"{failure}:2"})
    for attempts in (1, 2):
        with pytest.raises(FAILURES[failure]):
            stub.send(Email.from_row({**row, "Attempts": attempts}))
    stub.send(Email.from_row({**row, "Attempts": 3}))


@pytest.mark.parametrize("address", ["\u200bada@example.com", "ada", "", "ada@example.com,eve@example.com"])
def test_a_failure_of_no_address_stops_the_start(set_environment: Callable[..., None], address: str) -> None:
    set_environment(StubSettings(stub_failures={address: "permanent"}))
    with pytest.raises(SettingsError, match=r"^EMAIL_STUB_FAILURES: a recipient (is|has) ") as raised:
        StubProvider.from_settings(Settings())
    assert not address or address not in str(raised.value)


def test_a_recipient_to_fail_for_is_the_same_address_however_it_is_written(
    set_environment: Callable[..., None], row: dict[str, Any]
) -> None:
    set_environment(StubSettings(stub_failures={"Ada <ada@EXAMPLE.com>": "permanent"}))
    stub = StubProvider.from_settings(Settings())
    with pytest.raises(PermanentError):
        stub.send(Email.from_row(row))


def test_the_settings_set_outbox_and_failures(
    set_environment: Callable[..., None], row: dict[str, Any], tmp_path: Path
) -> None:
    set_environment(StubSettings(stub_outbox=tmp_path, stub_failures={"bad@example.com": "permanent"}))
    stub = StubProvider.from_settings(Settings())
    stub.send(Email.from_row(row))
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(PermanentError):
        stub.send(Email.from_row({**row, "RecipientsTo": ["bad@example.com"]}))
