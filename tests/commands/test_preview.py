from __future__ import annotations

import json
from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING, Any

import pytest

from settings import get_settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore
    from settings import Settings


CHANGES = {"Subject": "Grüße", "RecipientsBcc": ["eve@example.com"]}


def message_of(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return message_from_bytes(result.stdout_bytes, policy=default)


def check_message(result: Result) -> None:
    message = message_of(result)
    assert (message["Subject"], message["To"], message["Bcc"]) == ("Grüße", "ada@example.com", None)
    assert result.stderr == "It would be sent from shop@example.com by stub to ada@example.com, eve@example.com.\n"


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_it_writes_the_message_of_a_file(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore, tmp_path: Path, source: str
) -> None:
    file = tmp_path / "row.json"
    file.write_text(json.dumps(row | CHANGES))
    check_message(run("preview", "-" if source == "stdin" else str(file), input=file.read_text()))
    assert store.get(row["EmailId"]) is None


def test_it_writes_the_message_of_a_row_and_changes_nothing(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore, raw_queue: Queue
) -> None:
    store.put(row | CHANGES)
    check_message(run("preview", row["EmailId"]))
    assert store.get(row["EmailId"]) == row | CHANGES
    assert raw_queue.receive(10, 0, 30) == []


@pytest.mark.parametrize(
    ("attributes", "provider"), [({}, "smtp"), ({"ProvidersTried": {"smtp": 1}}, "ses"), ({"SendVia": "stub"}, "stub")]
)
def test_it_names_the_provider_of_the_next_attempt(
    run: Callable[..., Result],
    row: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    attributes: dict[str, Any],
    provider: str,
) -> None:
    monkeypatch.setenv("EMAIL_PROVIDER", "smtp,ses")
    monkeypatch.setenv("EMAIL_SEND_VIA", "stub")
    assert f" by {provider} to " in run("preview", "-", input=json.dumps(row | attributes)).stderr


def test_it_fetches_attachments_from_s3(
    run: Callable[..., Result],
    row: dict[str, Any],
    store: EmailStore,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3 = client("s3", settings)
    s3.create_bucket(Bucket="preview-bucket")
    s3.put_object(Bucket="preview-bucket", Key="mail/a.txt", Body=b"from S3")
    monkeypatch.setenv("EMAIL_ATTACHMENT_PREFIXES", "s3://preview-bucket/mail/")
    get_settings.cache_clear()
    attachment = {"name": "a.txt", "content_type": "text/plain", "s3_uri": "s3://preview-bucket/mail/a.txt"}
    store.put(row | {"Attachments": [attachment]})
    (file,) = message_of(run("preview", row["EmailId"])).iter_attachments()
    assert file.get_content() == "from S3"
    missing = row | {"EmailId": "missing", "Attachments": [attachment | {"s3_uri": "s3://preview-bucket/mail/b.txt"}]}
    result = run("preview", "-", input=json.dumps(missing))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "It would not be sent: Attachments[0].s3_uri: S3 " in result.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"EmailStatus": "Sent"}, "It is Sent, so it would not be sent now.\n"),
        ({"SendAfter": "2099-01-01T00:00:00Z"}, "It would be sent at 2099-01-01T00:00:00+00:00.\n"),
    ],
)
def test_it_says_why_the_message_is_not_sent_now(
    run: Callable[..., Result], row: dict[str, Any], changes: dict[str, str], said: str
) -> None:
    result = run("preview", "-", input=json.dumps(row | changes))
    assert message_of(result)["Subject"] == row["Subject"]
    assert result.stderr.startswith(said)


def test_a_row_that_would_fail_gives_no_message(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore
) -> None:
    store.put(row | {"Sender": "nobody"})
    result = run("preview", row["EmailId"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "It would not be sent: Sender: " in result.stderr


def test_an_id_without_a_row_is_told_how_to_write_one(run: Callable[..., Result]) -> None:
    result = run("preview", "nobody")
    assert result.exit_code == 1
    assert "email-service send FILE" in result.stderr


def test_a_terminal_obeys_nothing_in_the_message(
    run: Callable[..., Result], row: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.is_terminal", lambda: True)
    result = run("preview", "-", input=json.dumps(row | {"BodyText": "a\x1b[2Jb"}))
    assert r"a\x1b[2Jb" in result.stdout.splitlines()
