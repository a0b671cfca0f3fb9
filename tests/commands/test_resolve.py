"""`email-service resolve`: what an operator says about an email or many, and what happens then."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from emails.status import DISCARD, TRACK, EmailStatus
from emails.store import EmailStore, StoreUnavailable
from tests.support.stage import pending_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from celery_sqs.sqs.queue import Queue

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
    monkeypatch.setattr("emails.operate.enqueue_ids", lambda _, ids: dict.fromkeys(ids, "InternalError"))
    email_id = put("Failed")
    result = run("resolve", "--resend", email_id)
    assert result.exit_code == 1
    assert f"email-service enqueue {email_id}" in result.output
    assert (store.get(email_id) or {})["EmailStatus"] == "Pending"


# Many at once


@pytest.fixture
def failed(store: EmailStore) -> list[str]:
    """Three emails that failed for one reason, one for another, and one that is Unknown."""
    for number in range(5):
        store.put(pending_row(f"order-{number}"))
        claim = store.claim(f"order-{number}", lease=60)
        if number < 4:
            store.fail(claim, "no such mailbox" if number == 3 else "no connection")
        else:
            store.mark_unknown(claim, "no answer")
    return [f"order-{number}" for number in range(4)]


def statuses(store: EmailStore) -> list[str]:
    found = store.statuses([f"order-{number}" for number in range(5)])
    return [str(found[email_id]) for email_id in sorted(found)]


def enqueued(queue: Queue) -> list[str]:
    ids: list[str] = []
    while messages := queue.receive(10, 0, 30):
        ids += [json.loads(message["Body"])["email_id"] for message in messages]
    return sorted(ids)


SUMMARY = "4 Failed\n      3  no connection\n      1  no such mailbox\n"


def test_a_dry_run_shows_how_many_there_are_and_changes_nothing(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue
) -> None:
    for verdict, what in (("--resend", "resent"), ("--sent", "marked as Sent")):
        result = run("resolve", "--status", "Failed", "--dry-run", verdict)
        assert (result.exit_code, result.output) == (0, f"{SUMMARY}4 would be {what}.\n")
    result = run("resolve", "-", "--dry-run", "--resend", input="order-1\norder-4\n")
    assert (result.exit_code, result.output) == (0, "1 Failed, 1 Unknown\n2 would be resent.\n")
    assert statuses(store) == ["Failed"] * 4 + ["Unknown"]
    assert enqueued(raw_queue) == []


@pytest.mark.parametrize("answer", ["n\n", "", "\n"])
def test_without_a_yes_nothing_changes(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue, answer: str
) -> None:
    result = run("resolve", "--status", "Failed", "--resend", input=answer)
    assert result.exit_code == 1
    assert result.stdout.startswith(SUMMARY)
    assert "Send 4 emails again?" in result.stderr
    assert statuses(store) == ["Failed"] * 4 + ["Unknown"]
    assert enqueued(raw_queue) == []


def test_all_that_failed_are_sent_again(run: Run, failed: list[str], store: EmailStore, raw_queue: Queue) -> None:
    result = run("resolve", "--status", "Failed", "--since", "2h", "--resend", input="y\n")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("4 Pending and enqueued, 0 skipped, 0 failed.\n")
    assert statuses(store) == ["Pending"] * 4 + ["Unknown"]
    assert enqueued(raw_queue) == failed
    again = run("resolve", "--status", "Failed", "--resend")
    assert (again.exit_code, again.output) == (0, "none\n0 would be resent.\n")


def test_those_with_a_reason_are_marked_as_sent(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue
) -> None:
    result = run("resolve", "--status", "Failed", "--reason", "CONNECTION", "--sent", input="y\n")
    assert result.exit_code == 0, result.output
    assert "Mark 3 emails as Sent?" in result.stderr
    assert statuses(store) == ["Sent"] * 3 + ["Failed", "Unknown"]
    assert enqueued(raw_queue) == []


@pytest.mark.parametrize(
    ("answer", "ends"),
    [("y\n1\n", "Pending"), ("1\n", "Pending"), ("2\n", "Unknown"), ("", "Unknown")],
    ids=["yes is no count", "its count", "another count", "no answer"],
)
def test_an_unknown_email_is_sent_again_only_after_the_count_was_typed(
    run: Run, failed: list[str], store: EmailStore, answer: str, ends: str
) -> None:
    result = run("resolve", "--status", "Unknown", "--resend", input=answer)
    assert result.exit_code == (ends == "Unknown")
    assert "1 are Unknown: the provider may have accepted them" in result.stderr
    assert statuses(store) == ["Failed"] * 4 + [ends]


def test_an_unknown_email_is_marked_as_sent_after_a_plain_yes(run: Run, failed: list[str], store: EmailStore) -> None:
    assert run("resolve", "--status", "Unknown", "--status", "Failed", "--sent", input="y\n").exit_code == 0
    assert statuses(store) == ["Sent"] * 5


def test_ids_on_standard_input_are_resolved_and_the_others_named(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue
) -> None:
    store.put(pending_row("pending"))
    ids = "order-1\r\norder-2\n\norder-1\npending\nnobody\n" + "x" * 3000 + "\n"
    asked = run("resolve", "-", "--resend", input=ids)
    assert asked.exit_code == 1
    assert (
        "Nothing was changed. Standard input has the ids, so the question needs its answer: --confirm 2" in asked.stderr
    )
    result = run("resolve", "-", "--resend", "--confirm", "2", input=ids)
    assert result.exit_code == 0, result.output
    assert "pending is skipped: it is Pending" in result.stderr
    assert "nobody is skipped: it has no row" in result.stderr
    assert "is longer than 190 bytes" in result.stderr
    assert statuses(store) == ["Failed", "Pending", "Pending", "Failed", "Unknown"]
    assert enqueued(raw_queue) == ["order-1", "order-2"]


def test_the_ids_that_list_prints_are_what_resolve_reads(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue
) -> None:
    ids = run("list", "--reason", "no connection", "--ids-only").stdout
    assert run("resolve", "-", "--resend", "--confirm", "3", input=ids).exit_code == 0
    assert enqueued(raw_queue) == ["order-0", "order-1", "order-2"]


def test_another_count_than_the_confirmed_one_changes_nothing(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue
) -> None:
    result = run("resolve", "--status", "Failed", "--resend", "--confirm", "5")
    assert result.exit_code == 1
    assert "Nothing was changed: there are 4 emails, not 5." in result.stderr
    assert statuses(store) == ["Failed"] * 4 + ["Unknown"]


def test_an_email_that_has_moved_on_since_the_question_is_skipped(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was for Failed emails, so one that is Unknown now is not sent again either."""

    def meanwhile(*_: object, **__: object) -> None:
        store.track("order-0", TRACK[EmailStatus.DELIVERED], "")
        store.resend("order-1", {EmailStatus.FAILED})
        store.mark_unknown(store.claim("order-1", lease=60), "no answer")
        store.resend("order-2", {EmailStatus.FAILED})
        store._client.delete_item(TableName=store.table, Key={"EmailId": {"S": "order-3"}})

    monkeypatch.setattr("commands.resolve._ask", meanwhile)
    result = run("resolve", "--status", "Failed", "--resend")
    assert result.exit_code == 0
    assert "order-0 is skipped: it is Delivered now" in result.stderr
    assert "order-1 is skipped: it is Unknown now" in result.stderr
    assert "order-3 is skipped: it has no row" in result.stderr
    assert result.stdout.endswith("1 Pending and enqueued, 3 skipped, 0 failed.\n")
    assert enqueued(raw_queue) == ["order-2"], "its message does no harm if it has one already"


def test_an_email_whose_id_no_worker_takes_stays_failed(run: Run, store: EmailStore, raw_queue: Queue) -> None:
    store.put(pending_row("x" * 200))
    store.end("x" * 200, DISCARD, "email_id is too long")
    result = run("resolve", "--status", "Failed", "--resend", "--confirm", "1")
    assert "is skipped: no worker would take it" in result.stderr
    assert (store.get("x" * 200) or {})["EmailStatus"] == "Failed"


def test_what_sqs_or_dynamodb_refuses_is_named_and_may_be_repeated(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    resend = EmailStore.resend

    def refuse_one(self: EmailStore, email_id: str, *arguments: Any) -> None:
        if email_id == "order-0":
            raise StoreUnavailable("DynamoDB answered with ThrottlingException")
        resend(self, email_id, *arguments)

    sent: list[str] = []

    def accept_some(_: Queue, email_ids: list[str]) -> dict[str, str]:
        sent.extend(email_ids)
        return {"order-1": "InternalError"}

    with monkeypatch.context() as patch:
        patch.setattr(EmailStore, "resend", refuse_one)
        patch.setattr("emails.bulk.enqueue_ids", accept_some)
        result = run("resolve", "--status", "Failed", "--resend", "--confirm", "4")
    assert result.exit_code == 1
    assert "order-0 failed: DynamoDB answered with ThrottlingException" in result.stderr
    assert "order-1 failed: SQS did not accept its message: InternalError" in result.stderr
    assert "2 Pending and enqueued, 0 skipped, 2 failed." in result.stdout
    assert "2 failed: repeat the command later, or run email-service sweep" in result.stderr
    assert sorted(sent) == failed, "order-0 may be Pending too, if only the answer was lost"
    assert run("resolve", "--status", "Failed", "--resend", "--confirm", "1").exit_code == 0
    assert enqueued(raw_queue) == ["order-0"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Give an ID, - for ids on standard input, or --status."),
        (("order-1", "--status", "Failed"), "Give an ID, - for ids on standard input, or --status."),
        (("order-1", "--since", "2h"), "--since and --reason need --status."),
        (("-", "--reason", "no"), "--since and --reason need --status."),
        (("order-1", "--dry-run"), "--dry-run and --confirm are for more than one email."),
        (("--status", "Sent"), "'Sent' is not one of"),
    ],
)
def test_options_that_do_not_go_together_are_explained(run: Run, arguments: tuple[str, ...], says: str) -> None:
    result = run("resolve", "--resend", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_an_interrupted_batch_is_finished_and_the_rest_left(
    run: Run, failed: list[str], store: EmailStore, raw_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    resend = EmailStore.resend

    def interrupt(self: EmailStore, *arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        resend(self, *arguments)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("emails.bulk.BATCH", 1)
    monkeypatch.setattr(EmailStore, "resend", interrupt)
    result = run("resolve", "--status", "Failed", "--resend", "--confirm", "4")
    assert result.exit_code == 130
    assert result.stdout.endswith("1 Pending and enqueued, 0 skipped, 0 failed, 3 left as they were.\n")
    assert signal.getsignal(signal.SIGINT) == before
    assert sorted(statuses(store)) == ["Failed", "Failed", "Failed", "Pending", "Unknown"]
    monkeypatch.setattr(EmailStore, "resend", resend)
    assert run("resolve", "--status", "Failed", "--resend", "--confirm", "3").exit_code == 0
    assert enqueued(raw_queue) == failed
