"""`email-service dead-letters`: what it prints, and what it keeps private."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_sqs.sqs.queue import Queue, queue_url
from emails.store import EmailStore, StoreUnavailable
from settings.model import dead_letter_queue
from tests.emails.callbacks.notifications import confirmation
from tests.support.sqs import message_counts

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result
    from mypy_boto3_sqs import SQSClient

    from settings import Settings

    PutDeadLetter = Callable[..., str]
    Run = Callable[..., Result]

NOT_JSON = {"Reason": "NotJson", "Detail": "the body is not JSON", "Team": "private-team"}


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_sqs.sqs.batches.FIRST_BACKOFF_SECONDS", 0)


@pytest.fixture
def letters(settings: Settings, put_dead_letter: PutDeadLetter) -> dict[str, str]:
    """Put two dead letters for the raw queue and one for the tasks queue. Return their ids."""
    task = json.dumps({"body": '[["test-1"], {}, {}]', "headers": {"task": "tasks.load_email", "id": "task-1"}})
    return {
        "bad": put_dead_letter(settings.queue, "private body", NOT_JSON),
        "killer": put_dead_letter(settings.queue, '{"email_id": "test-2", "private": "private"}'),
        "task": put_dead_letter(settings.tasks_queue, task, {"Reason": "EmailNotFound", "Detail": "no row came"}),
    }


@pytest.fixture
def visible(sqs: SQSClient) -> Callable[[str], int]:
    """Return a function that counts a queue's visible messages."""

    def count(name: str) -> int:
        return message_counts(sqs, queue_url(sqs, name) or "")[0]

    return count


def test_list_counts_the_reasons_of_each_queue_and_names_each_letter(
    run: Run, settings: Settings, letters: dict[str, str], visible: Callable[[str], int]
) -> None:
    result = run("dead-letters", "list")
    assert (result.exit_code, result.output.splitlines()) == (
        0,
        [
            f"{settings.queue}_dlq: 1 MaxReceives, 1 NotJson",
            f"  {letters['killer']}  MaxReceives  received too often: it may crash workers  test-2",
            f"  {letters['bad']}  NotJson  the body is not JSON",
            f"{settings.bulk_queue}_dlq: none",
            f"{settings.tasks_queue}_dlq: 1 EmailNotFound",
            f"  {letters['task']}  EmailNotFound  no row came  test-1",
            f"{settings.callbacks_queue}_dlq: none",
        ],
    )
    assert visible(dead_letter_queue(settings.queue)) == 2


def test_list_says_that_there_is_more_where_another_holds_it(
    run: Run, settings: Settings, letters: dict[str, str], sqs: SQSClient
) -> None:
    sqs.receive_message(QueueUrl=queue_url(sqs, f"{settings.queue}_dlq") or "", MaxNumberOfMessages=1)
    assert "  about 1 more, according to SQS: " in run("dead-letters", "list").output


def test_list_as_json(run: Run, settings: Settings, letters: dict[str, str]) -> None:
    found = json.loads(run("dead-letters", "list", "--json").output)
    assert found[f"{settings.tasks_queue}_dlq"] == {
        "Reasons": {"EmailNotFound": 1},
        "NotSeen": 0,
        "DeadLetters": [
            {
                "MessageId": letters["task"],
                "Reason": "EmailNotFound",
                "Detail": "no row came",
                "EmailId": "test-1",
            }
        ],
    }
    assert found[f"{settings.queue}_dlq"]["Reasons"] == {"MaxReceives": 1, "NotJson": 1}


def test_show_keeps_the_body_and_the_producers_attributes_to_itself_unless_it_is_asked(
    run: Run, settings: Settings, letters: dict[str, str], visible: Callable[[str], int]
) -> None:
    result = run("dead-letters", "show", letters["bad"])
    story = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert story == {
        "MessageId": letters["bad"],
        "Queue": f"{settings.queue}_dlq",
        "Reason": "NotJson",
        "Detail": "the body is not JSON",
        "Body": "12 bytes (--body shows it)",
    }
    asked = run("dead-letters", "show", letters["bad"], "--body").output
    story = dict(line.split(maxsplit=1) for line in asked.splitlines())
    assert (story["Body"], story["MessageAttributes.Team"]) == ("private body", "private-team")
    assert visible(dead_letter_queue(settings.queue)) == 2


def test_show_has_the_url_that_a_subscription_is_confirmed_by_whole_and_only_if_it_is_asked(
    run: Run, settings: Settings, put_dead_letter: Callable[..., str]
) -> None:
    body = confirmation("SubscriptionConfirmation")
    letter = put_dead_letter(
        settings.queue, body, {"Reason": "SubscriptionConfirmation", "Detail": "visit the SubscribeURL"}
    )
    assert json.loads(body)["SubscribeURL"] in run("dead-letters", "show", letter, "--body").output
    assert json.loads(body)["Token"] not in run("dead-letters", "show", letter).output
    assert json.loads(body)["Token"] not in run("dead-letters", "list").output


@pytest.mark.parametrize(("name", "email_id"), [("killer", "test-2"), ("task", "test-1")])
def test_show_says_which_email_it_is(run: Run, letters: dict[str, str], name: str, email_id: str) -> None:
    output = run("dead-letters", "show", letters[name]).output
    assert dict(line.split(maxsplit=1) for line in output.splitlines())["EmailId"] == email_id
    assert "private" not in output


def test_a_dead_letter_is_also_known_by_the_id_of_its_task(
    run: Run, letters: dict[str, str], settings: Settings
) -> None:
    shown = dict(line.split(maxsplit=1) for line in run("dead-letters", "show", "task-1").output.splitlines())
    assert (shown["MessageId"], shown["TaskId"]) == (letters["task"], "task-1")
    assert f"{settings.tasks_queue}_dlq: 1 moved back" in run("dead-letters", "redrive", "task-1").output


def test_what_a_producer_writes_in_the_form_of_a_task_message_has_no_task_id(
    run: Run, settings: Settings, put_dead_letter: PutDeadLetter
) -> None:
    put_dead_letter(settings.queue, json.dumps({"headers": {"id": "task-1"}}), NOT_JSON)
    assert run("dead-letters", "show", "task-1").exit_code == 1


@pytest.mark.parametrize("command", ["show", "redrive", "discard"])
def test_an_id_that_is_no_dead_letter_fails(run: Run, letters: dict[str, str], command: str) -> None:
    result = run("dead-letters", command, "nobody")
    assert result.exit_code == 1
    assert "There is no dead letter nobody" in result.output


@pytest.mark.parametrize("command", ["redrive", "discard"])
def test_an_id_and_a_reason_together_are_refused(run: Run, letters: dict[str, str], command: str) -> None:
    result = run("dead-letters", command, letters["bad"], "--reason", "NotJson")
    assert result.exit_code == 2
    assert "not both" in result.output


def test_redrive_says_how_many_went_where(
    run: Run, settings: Settings, letters: dict[str, str], raw_queue: Queue, visible: Callable[[str], int]
) -> None:
    result = run("dead-letters", "redrive", "--reason", "MaxReceives")
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [
            f"{settings.queue}_dlq: 1 moved back to {settings.queue}",
            f"{settings.bulk_queue}_dlq: 0 moved back to {settings.bulk_queue}",
            f"{settings.tasks_queue}_dlq: 0 moved back to {settings.tasks_queue}",
            f"{settings.callbacks_queue}_dlq: 0 moved back to {settings.callbacks_queue}",
        ],
    )
    assert [json.loads(message["Body"])["email_id"] for message in raw_queue.receive(10, 0, 30)] == ["test-2"]
    assert visible(dead_letter_queue(settings.queue)) == 1
    assert run("dead-letters", "redrive").exit_code == 0
    assert visible(settings.tasks_queue) == 1


def test_redrive_names_what_stays_and_fails(
    run: Run, letters: dict[str, str], store: EmailStore, row: dict[str, Any], visible: Callable[[str], int]
) -> None:
    store.put({**row, "EmailId": "test-2", "EmailStatus": "Failed", "FailureReason": "expired"})
    result = run("dead-letters", "redrive")
    assert result.exit_code == 1
    assert f"{letters['killer']} was not moved: test-2 is Failed (expired), so it would not be sent; " in result.stderr
    assert result.stderr.endswith("Error: 1 of 3 were not moved: see above.\n")


@pytest.mark.parametrize("status", ["Failed", "Unknown"])
def test_a_message_whose_email_failed_stays_and_redrive_says_how_to_resend_it(
    run: Run, letters: dict[str, str], store: EmailStore, row: dict[str, Any], status: str
) -> None:
    store.put({**row, "EmailId": "test-2", "EmailStatus": status, "FailureReason": "expired"})
    letter = letters["killer"]
    discard = f"`email-service dead-letters discard {letter}`"
    assert run("dead-letters", "redrive", letter).stderr.splitlines()[0] == (
        f"{letter} was not moved: test-2 is {status} (expired), so it would not be sent; to send it again, run "
        f"`email-service resolve test-2 --resend`, then {discard}"
    )


@pytest.mark.parametrize("status", ["Sent", "Delivered", "Waiting"])
def test_a_task_message_whose_email_is_past_sending_stays_too(
    run: Run, letters: dict[str, str], store: EmailStore, row: dict[str, Any], status: str
) -> None:
    store.put({**row, "EmailId": "test-1", "EmailStatus": status})
    discard = f"`email-service dead-letters discard {letters['task']}`"
    assert run("dead-letters", "redrive", letters["task"]).stderr.splitlines()[0] == (
        f"{letters['task']} was not moved: test-1 is {status}, so it would not be sent; "
        f"to delete this dead letter, run {discard}"
    )


@pytest.mark.parametrize("status", ["Pending", "Sending", None])
def test_a_message_whose_email_may_yet_be_sent_is_redriven(
    run: Run, letters: dict[str, str], store: EmailStore, row: dict[str, Any], status: str | None
) -> None:
    store.put({**row, "EmailId": "test-1", "EmailStatus": status})
    assert run("dead-letters", "redrive").exit_code == 0


def test_what_a_producer_writes_in_the_form_of_a_task_message_names_no_email(
    run: Run, settings: Settings, put_dead_letter: PutDeadLetter
) -> None:
    body = json.dumps({"body": '[["test-1"], {}, {}]', "headers": {"task": "tasks.load_email"}})
    assert "test-1" not in run("dead-letters", "show", put_dead_letter(settings.queue, body)).output


def test_where_the_row_cannot_be_read_nothing_moves(
    run: Run,
    settings: Settings,
    letters: dict[str, str],
    visible: Callable[[str], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(EmailStore, "get", away)
    assert run("dead-letters", "redrive", letters["killer"]).exit_code == 1
    assert (visible(settings.queue), visible(dead_letter_queue(settings.queue))) == (0, 2)


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt the program when it deletes its second batch of dead letters."""
    delete_batch, batches = Queue.delete_batch, []

    def interrupt(queue: Queue, batch: list[dict[str, Any]]) -> list[str]:
        batches.append(batch)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return delete_batch(queue, batch)

    monkeypatch.setattr(Queue, "delete_batch", interrupt)


def test_an_interrupted_redrive_says_how_far_it_came_and_nothing_is_lost(
    run: Run, settings: Settings, put_dead_letter: PutDeadLetter, visible: Callable[[str], int], interrupted: None
) -> None:
    for number in range(15):
        put_dead_letter(settings.queue, f"body {number}")
    result = run("dead-letters", "redrive")
    assert result.exit_code == 130
    assert f"{settings.queue}_dlq: 10 moved back to {settings.queue}" in result.stdout
    assert "Interrupted" in result.stderr
    assert (visible(settings.queue), visible(dead_letter_queue(settings.queue))) == (15, 5)


def test_an_interrupted_discard_says_how_many_it_deleted(
    run: Run, settings: Settings, put_dead_letter: PutDeadLetter, interrupted: None
) -> None:
    for number in range(15):
        put_dead_letter(settings.queue, f"body {number}")
    result = run("dead-letters", "discard", "--yes")
    assert result.exit_code == 130
    assert result.stdout.endswith("10 deleted.\n")


def test_discard_says_what_it_found_and_deletes_it_when_it_is_told_yes(
    run: Run, settings: Settings, letters: dict[str, str], visible: Callable[[str], int]
) -> None:
    asked = run("dead-letters", "discard", input="n\n")
    assert asked.exit_code == 1
    assert f"{settings.queue}_dlq: 1 MaxReceives, 1 NotJson" in asked.output
    assert visible(dead_letter_queue(settings.queue)) == 2
    done = run("dead-letters", "discard", input="y\n")
    assert done.exit_code == 0
    assert done.stdout.endswith("3 deleted.\n")
    assert visible(dead_letter_queue(settings.queue)) == visible(dead_letter_queue(settings.tasks_queue)) == 0


@pytest.mark.parametrize("choice", ["reason", "id"])
def test_discard_of_one_reason_or_one_id_leaves_the_rest_visible(
    run: Run, settings: Settings, letters: dict[str, str], visible: Callable[[str], int], choice: str
) -> None:
    arguments = {"reason": ["--reason", "NotJson"], "id": [letters["bad"]]}[choice]
    assert run("dead-letters", "discard", "--yes", *arguments).stdout.endswith("1 deleted.\n")
    assert run("dead-letters", "show", letters["bad"]).exit_code == 1
    assert (visible(dead_letter_queue(settings.queue)), visible(dead_letter_queue(settings.tasks_queue))) == (1, 1)


def test_discard_of_nothing_asks_nothing(run: Run, settings: Settings) -> None:
    result = run("dead-letters", "discard")
    assert (result.exit_code, result.output) == (0, "".join(f"{queue}_dlq: none\n" for queue in settings.queues))


def test_discard_names_what_sqs_does_not_delete_and_fails(
    run: Run, letters: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Queue, "delete_batch", lambda _, batch: ["InternalError"] * len(batch))
    result = run("dead-letters", "discard", "--yes", letters["bad"])
    assert result.exit_code == 1
    assert f"{letters['bad']} was not deleted: InternalError" in result.stderr
    assert result.stdout.endswith("0 deleted.\n")
