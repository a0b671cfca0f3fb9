from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from emails.store import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore


@pytest.fixture
def files(tmp_path: Path, row: dict[str, Any]) -> Callable[..., list[str]]:
    """Write a file for each id, with the row and these changes, and return the files' names."""

    def write(*email_ids: str, **changes: object) -> list[str]:
        paths = [tmp_path / f"{email_id}.json" for email_id in email_ids]
        for email_id, path in zip(email_ids, paths, strict=True):
            path.write_text(json.dumps(row | {"EmailId": email_id} | changes))
        return list(map(str, paths))

    return write


def enqueued(raw_queue: Queue) -> list[str]:
    return sorted(json.loads(message["Body"])["email_id"] for message in raw_queue.receive(10, 0, 30))


def test_it_writes_each_row_and_enqueues_its_id(
    run: Callable[..., Result], files: Callable[..., list[str]], store: EmailStore, raw_queue: Queue
) -> None:
    result = run("send", *files("one", "two", EmailStatus=None))
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            f"{email_id} is Pending and enqueued. Follow it: email-service status {email_id}"
            for email_id in ("one", "two")
        ],
    )
    assert [(store.get(email_id) or {})["EmailStatus"] for email_id in ("one", "two")] == ["Pending", "Pending"]
    assert enqueued(raw_queue) == ["one", "two"]


@pytest.mark.parametrize("changes", [{"Sender": "nobody"}, {"EmailStatus": "Sent"}], ids=str)
def test_a_file_that_would_not_be_sent_keeps_all_from_being_written(
    run: Callable[..., Result],
    files: Callable[..., list[str]],
    store: EmailStore,
    raw_queue: Queue,
    changes: dict[str, str],
) -> None:
    result = run("send", *files("good"), *files("bad", **changes))
    assert result.exit_code == 1
    assert store.get("good") is None
    assert enqueued(raw_queue) == []


def test_an_id_that_has_a_row_is_named_and_the_others_are_sent(
    run: Callable[..., Result], files: Callable[..., list[str]], raw_queue: Queue
) -> None:
    run("put", *files("first"))
    result = run("send", *files("first", "second"))
    assert result.exit_code == 1
    assert result.stderr == "Error: first has a row already; see `email-service status first`.\n"
    assert enqueued(raw_queue) == ["second"]


def test_a_row_that_was_written_is_enqueued_even_if_the_next_cannot_be(
    run: Callable[..., Result],
    files: Callable[..., list[str]],
    raw_queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def put(_: object, row: dict[str, Any]) -> None:
        if row["EmailId"] == "second":
            raise StoreUnavailable("DynamoDB cannot be reached")

    monkeypatch.setattr("commands.send.EmailStore.put", put)
    result = run("send", *files("first", "second"))
    assert result.exit_code == 1
    assert "DynamoDB cannot be reached" in result.stderr
    assert enqueued(raw_queue) == ["first"]


def test_a_row_whose_message_sqs_refuses_is_named_with_what_to_do(
    run: Callable[..., Result], files: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.send.enqueue_ids", lambda _, ids: dict.fromkeys(ids, "InternalError"))
    result = run("send", *files("first"))
    assert result.exit_code == 1
    assert result.output == "Error: first is Pending, but SQS did not accept its message: email-service enqueue first\n"
