"""What `enqueue` says about ids whose rows a worker would not send."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from emails.store import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from click.testing import Result

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore


def enqueued(raw_queue: Queue) -> list[str]:
    received: list[str] = []
    while messages := raw_queue.receive(10, 0, 30):
        received += [json.loads(message["Body"])["email_id"] for message in messages]
    return received


@pytest.mark.parametrize(
    ("status", "note"),
    [
        (
            "Failed",
            "1 Failed, which workers do not send again: it. To send one again: email-service resolve it --resend\n",
        ),
        (
            "Unknown",
            "1 Unknown, which workers do not send again: it. To send one again: email-service resolve it --resend\n",
        ),
        ("Sent", "1 Sent, which workers leave alone: it. There is nothing to do.\n"),
        ("Draft", "1 Draft, which workers leave alone: it. There is nothing to do.\n"),
        ("Pending", ""),
        (None, ""),
    ],
)
def test_a_row_that_is_not_pending_is_named_with_what_to_do(  # noqa: PLR0913, PLR0917 (fixtures)
    run: Callable[..., Result],
    row: dict[str, Any],
    store: EmailStore,
    raw_queue: Queue,
    status: str | None,
    note: str,
) -> None:
    store.put(row | {"EmailId": "it", "EmailStatus": status})
    result = run("enqueue", "it")
    assert (result.exit_code, result.stderr) == (0, note)
    assert enqueued(raw_queue) == ["it"]


def test_an_id_without_a_row_is_named_with_what_to_do(run: Callable[..., Result], raw_queue: Queue) -> None:
    result = run("enqueue", "nobody")
    assert result.exit_code == 0
    assert result.stderr == (
        "1 without a row yet: nobody. Write each row within 60 seconds, or its message becomes a dead letter:"
        " email-service put FILE\n"
    )
    assert enqueued(raw_queue) == ["nobody"]


def test_many_ids_are_looked_up_a_hundred_at_a_time_and_twenty_are_named(
    run: Callable[..., Result], raw_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def statuses(_: object, ids: Sequence[str]) -> dict[str, str]:
        batches.append(len(ids))
        return {}

    monkeypatch.setattr("commands.enqueue.EmailStore.statuses", statuses)
    result = run("enqueue", input="".join(f"id-{number}\n" for number in range(205)))
    assert batches == [100, 100, 5]
    assert result.stderr.startswith("205 without a row yet: id-0, id-1, ")
    assert ", id-19, …. Write" in result.stderr
    assert len(enqueued(raw_queue)) == 205


def test_no_check_reads_no_row(run: Callable[..., Result], raw_queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("commands.enqueue.EmailStore.statuses")
    result = run("enqueue", "--no-check", "nobody")
    assert (result.exit_code, result.stderr) == (0, "")
    assert enqueued(raw_queue) == ["nobody"]


def test_rows_that_cannot_be_read_stop_it_with_advice(
    run: Callable[..., Result], raw_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreUnavailable("DynamoDB answered with AccessDeniedException")

    monkeypatch.setattr("commands.enqueue.EmailStore.statuses", refuse)
    result = run("enqueue", "nobody")
    assert result.exit_code == 1
    assert "AccessDeniedException" in result.stderr
    assert "--no-check" in result.stderr
    assert enqueued(raw_queue) == []
