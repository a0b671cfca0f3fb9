"""`email-service resolve`: what an operator says about an email, and what happens then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore

    Run = Callable[..., Result]
    Put = Callable[..., str]

resolvable = pytest.mark.parametrize("status", ["Unknown", "Failed"])
LEFT_BY_A_WORKER = {
    "Attempts": 8,
    "NextAttemptAt": 32_503_680_000,
    "ClaimedBy": "claim-1",
    "ClaimExpiresAt": 1,
    "FailureReason": "no answer",
}


@pytest.fixture
def put(store: EmailStore, row: dict[str, Any]) -> Put:
    """Write a row with this status, as a worker would leave it. Return its id."""

    def write(status: object, **attributes: Any) -> str:
        left = {**row, "EmailStatus": status, **LEFT_BY_A_WORKER, **attributes}
        store.put(left)
        return str(left["EmailId"])

    return write


@resolvable
def test_what_was_sent_is_sent_and_nobody_sends_it_again(
    run: Run, put: Put, store: EmailStore, raw_queue: Queue, status: str
) -> None:
    email_id = put(status)
    result = run("resolve", "--sent", email_id)
    assert (result.exit_code, result.output) == (0, f"{email_id} is Sent.\n")
    found = store.get(email_id) or {}
    assert (found["EmailStatus"], found["FailureReason"]) == ("Sent", "resolved by an operator: it was sent")
    assert raw_queue.receive(10, 0, 30) == []


@resolvable
def test_what_is_resent_has_all_its_attempts_before_it_and_a_message(
    run: Run, put: Put, store: EmailStore, raw_queue: Queue, status: str
) -> None:
    email_id = put(status)
    result = run("resolve", "--resend", email_id)
    assert result.exit_code == 0
    assert result.output.startswith(f"{email_id} is Pending and enqueued.")
    assert [json.loads(message["Body"]) for message in raw_queue.receive(10, 0, 30)] == [{"email_id": email_id}]
    found = store.get(email_id) or {}
    assert found["EmailStatus"] == "Pending"
    assert not LEFT_BY_A_WORKER.keys() & found.keys()
    assert store.claim(email_id, lease=60).row["Attempts"] == 1


@pytest.mark.parametrize("verdict", ["--sent", "--resend"])
def test_any_other_status_is_named_and_left(
    run: Run, put: Put, store: EmailStore, raw_queue: Queue, verdict: str
) -> None:
    for status in ("Pending", "Sending", "Sent", "Delivered", "Bounced", "Complained", "Waiting", "", None):
        email_id = put(status, EmailId=f"is-{status}")
        before = store.get(email_id)
        result = run("resolve", verdict, email_id)
        assert result.exit_code == 1
        assert f"{email_id} is {status or 'without a status'}, not Unknown or Failed." in result.output
        assert store.get(email_id) == before
    assert raw_queue.receive(10, 0, 30) == []


@pytest.mark.parametrize("verdict", ["--sent", "--resend"])
def test_there_is_nothing_to_resolve_without_a_row(run: Run, store: EmailStore, raw_queue: Queue, verdict: str) -> None:
    result = run("resolve", verdict, "nobody")
    assert result.exit_code == 1
    assert "nobody has no row." in result.output
    assert store.get("nobody") is None
    assert raw_queue.receive(10, 0, 30) == []


@pytest.mark.parametrize("verdicts", [(), ("--sent", "--resend"), ("--resend", "--sent")])
def test_without_one_verdict_nothing_is_resolved(
    run: Run, put: Put, store: EmailStore, verdicts: tuple[str, ...]
) -> None:
    email_id = put("Unknown")
    result = run("resolve", *verdicts, email_id)
    assert result.exit_code == 2
    assert "Give either --sent or --resend." in result.output
    assert (store.get(email_id) or {})["EmailStatus"] == "Unknown"


def test_a_resent_email_that_sqs_does_not_take_is_named_with_the_command_that_helps(
    run: Run, put: Put, store: EmailStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.resolve.enqueue_ids", lambda _, ids: dict.fromkeys(ids, "InternalError"))
    email_id = put("Failed")
    result = run("resolve", "--resend", email_id)
    assert result.exit_code == 1
    assert f"email-service enqueue {email_id}" in result.output
    assert (store.get(email_id) or {})["EmailStatus"] == "Pending"
