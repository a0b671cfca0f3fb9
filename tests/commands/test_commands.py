"""The commands that a person types, and what they print."""

from __future__ import annotations

import json
import re
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from commands import main
from emails.callbacks import parse_callback
from emails.tracking import Tracking
from settings import get_settings
from tests.emails.callbacks.notifications import event

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore, EventStore
    from settings import Settings

Run = "Callable[..., Result]"


@pytest.mark.parametrize("command", main.list_commands(None), ids=str)  # type: ignore[arg-type]  # the method does not use the context
def test_every_command_explains_itself(run: Callable[..., Result], command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_an_unknown_command_is_refused(run: Callable[..., Result]) -> None:
    assert run("nonsense").exit_code == 2


def test_nothing_listening_is_one_sentence_that_says_what_to_do(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_ENDPOINT_URL", "http://127.0.0.1:9")
    get_settings.cache_clear()
    for arguments in (("provision",), ("enqueue", "x"), ("status", "x")):
        result = run(*arguments)
        assert result.exit_code == 1
        assert result.output.splitlines()[-1].startswith("Error: ")
        assert "http://127.0.0.1:9" in result.output


def test_provision_makes_what_is_missing_once(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_STAGE", f"fresh-{uuid.uuid4().hex[:8]}")
    get_settings.cache_clear()
    first, second = run("provision"), run("provision")
    assert first.output.count("created ") == 10
    assert second.output.count("found ") == 10
    assert "made" not in second.output


def test_put_then_enqueue_then_status(run: Callable[..., Result], row: dict[str, Any], raw_queue: Queue) -> None:
    email_id = row["EmailId"]
    del row["EmailStatus"]
    put = run("put", input=json.dumps(row))
    assert (put.exit_code, put.output.split()[:3]) == (0, [email_id, "is", "Pending."])
    enqueue = run("enqueue", email_id)
    assert enqueue.exit_code == 0
    assert f"status {email_id}" in enqueue.output
    assert [json.loads(message["Body"]) for message in raw_queue.receive(10, 0, 30)] == [{"email_id": email_id}]
    status = run("status", email_id)
    assert dict(line.split(maxsplit=1) for line in status.output.splitlines())["EmailStatus"] == "Pending"


@pytest.mark.parametrize("empty", [None, "", []], ids=repr)
def test_put_takes_an_empty_status_for_a_missing_one(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore, empty: object
) -> None:
    assert run("put", input=json.dumps(row | {"EmailStatus": empty})).exit_code == 0
    assert (store.get(row["EmailId"]) or {})["EmailStatus"] == "Pending"


def test_put_refuses_a_row_that_would_fail_and_says_why(run: Callable[..., Result], row: dict[str, Any]) -> None:
    result = run("put", input=json.dumps({**row, "Sender": "nobody"}))
    assert result.exit_code == 1
    assert "Sender: is not an address" in result.output


def test_put_refuses_an_id_that_has_a_row(run: Callable[..., Result], row: dict[str, Any], store: EmailStore) -> None:
    store.put(row)
    result = run("put", input=json.dumps({**row, "Subject": "another"}))
    assert result.exit_code == 1
    assert (store.get(row["EmailId"]) or {})["Subject"] == row["Subject"]


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "7", "null", "NaN", "{} {}", '{"a": 1,}', "[" * 100_000, b"\xff\xfe{", "1" * 5000]
)
def test_put_refuses_what_is_no_json_object(run: Callable[..., Result], text: str | bytes) -> None:
    result = run("put", input=text)
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: <stdin> is (not )?JSON.*\n", result.output)


NO_NUMBERS = [
    *("NaN", "Infinity", "-Infinity", "1" * 51, "1" * 5000, "-" + "9" * 39, "1" + "0" * 50, f"0.{'1' * 39}"),
    *("1e126", "1e-131", "1e400", "-1e400", "1e-400", "0e400", f"1e{'9' * 30}", f"1e-{'9' * 30}"),
]


def put_json(run: Callable[..., Result], row: dict[str, Any], attribute: str, value: str) -> Result:
    """Run `put` with one more attribute, and with this text as its JSON value, which may be invalid."""
    return run("put", input=f'{json.dumps(row)[:-1]}, "{attribute}": {value}}}')


@pytest.mark.parametrize("attribute", ["Customer", "NextAttemptAt", "Attempts"])
@pytest.mark.parametrize("number", NO_NUMBERS, ids=lambda number: number[:12])
def test_put_refuses_a_number_that_dynamodb_cannot_hold_in_one_sentence(
    run: Callable[..., Result], row: dict[str, Any], attribute: str, number: str
) -> None:
    result = put_json(run, row, attribute, number)
    assert result.exit_code == 1
    assert re.fullmatch(rf"Error: This row [^\n]*: {attribute}: (has a number|should be less) [^\n]*\n", result.output)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ('[{"a": [NaN]}]', "has a number that DynamoDB cannot hold"),
        ("[" * 33 + "]" * 33, "has more than 32 levels, which DynamoDB cannot hold"),
        ("[" * 900 + "]" * 900, "has more than 32 levels, which DynamoDB cannot hold"),
        (r'"\ud800"', "has a lone surrogate"),
        (r'{"\ud800": 1}', "has a lone surrogate"),
    ],
    ids=["number", "33 levels", "900 levels", "surrogate", "surrogate in a key"],
)
def test_put_refuses_what_dynamodb_cannot_hold_at_any_depth(
    run: Callable[..., Result], row: dict[str, Any], value: str, wrong: str
) -> None:
    result = put_json(run, row, "Customer", value)
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: This row cannot be stored: Customer: {wrong}")
    assert result.output.count("\n") == 1


def test_put_refuses_a_row_that_is_too_large(run: Callable[..., Result], row: dict[str, Any]) -> None:
    result = put_json(run, row, "Customer", json.dumps("x" * 420_000))
    assert result.exit_code == 1
    assert result.output.startswith("Error: This row cannot be stored: DynamoDB refused the request: ")
    assert "400 KB" in result.output


@pytest.mark.parametrize(
    "value",
    [
        *("0", "-0", "-0.0", "1e50", "1e125", "9.9e125", "1e-130", "1" * 38, "true", "false", "null"),
        *("[]", "{}", '""', "[" * 32 + "]" * 32, '[{"a": [1, -0.5e-7, true, null, "x"]}]'),
    ],
)
def test_put_writes_what_dynamodb_can_hold(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore, value: str
) -> None:
    assert put_json(run, row, "Customer", value).exit_code == 0
    assert (store.get(row["EmailId"]) or {})["Customer"] == json.loads(value, parse_float=Decimal)


def test_enqueue_takes_ids_from_a_file_or_stdin_one_a_line(
    run: Callable[..., Result], raw_queue: Queue, tmp_path: Path
) -> None:
    file = tmp_path / "ids"
    file.write_text("".join(f"id-{number}\n" for number in range(12)) + "\n")
    assert run("enqueue", "--from-file", str(file)).output.startswith("12 enqueued on ")
    assert run("enqueue", input="id-12\n").output.startswith("1 enqueued on ")
    received = []
    while messages := raw_queue.receive(10, 0, 30):
        received += [json.loads(message["Body"])["email_id"] for message in messages]
    assert sorted(received) == sorted(f"id-{number}" for number in range(13))


def test_enqueue_refuses_an_id_that_no_worker_would_take(run: Callable[..., Result]) -> None:
    result = run("enqueue", "x" * 191)
    assert result.exit_code == 1
    assert "longer than 190 bytes" in result.output


def test_status_as_json_tells_the_story_and_nothing_private(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore
) -> None:
    store.put({**row, "FailureReason": "why"})
    result = run("status", "--json", row["EmailId"])
    assert json.loads(result.output) == {
        "EmailId": row["EmailId"],
        "EmailStatus": "Pending",
        "FailureReason": "why",
        "Events": [],
    }


def test_status_tells_what_became_of_each_recipient(
    run: Callable[..., Result], row: dict[str, Any], store: EmailStore, events: EventStore
) -> None:
    store.put(row | {"EmailStatus": "Sent"})
    email_id = row["EmailId"]
    Tracking(store, events).record(parse_callback(json.dumps(event("Bounce", email_id))))
    output = run("status", email_id).output
    assert "EmailStatus    Bounced\n" in output
    assert output.endswith(
        "2026-01-31T12:00:05.123+00:00  ada@example.com  bounced  bounced  Permanent General 5.1.1"
        "  smtp; 550 5.1.1 <ada@example.com>... User unknown\n"
    )
    (bounce,) = json.loads(run("status", "--json", email_id).output)["Events"]
    assert (bounce["Recipient"], bounce["EventType"], bounce["Permanent"]) == ("ada@example.com", "bounced", True)


def test_status_of_an_id_without_a_row_fails(run: Callable[..., Result], settings: Settings) -> None:
    result = run("status", "nobody")
    assert result.exit_code == 1
    assert f"nobody has no row in {settings.table}" in result.output
