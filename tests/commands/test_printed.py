"""A terminal obeys nothing that a command prints, whoever wrote the data."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from boto3.dynamodb.types import Binary, TypeSerializer
from botocore.exceptions import ClientError, EndpointConnectionError
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from commands import broker, say_json
from emails.email import InvalidRow
from emails.report import ATTRIBUTES, EVENT
from emails.resources import ResourcesMissing
from emails.store import StoreRefused
from settings import get_settings
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_sqs import SQSClient

    from celery_sqs.sqs.queue import Queue
    from settings import Settings

    Run = Callable[..., Result]

COMMANDS = Path(__file__).parents[2] / "commands"
# This clears the screen in both ways, sets the title, writes from right to left, and starts a new line.
EVIL = "\x1b[2J\x9b2J\x1b]0;title\x07\u202eevil\u2066\x7f\x08\r\nEmailStatus    Sent"
SHOWN = r"\x1b[2J\x9b2J\x1b]0;title\x07\u202eevil\u2066\x7f\x08"

# The part of it that SQS accepts in a message (API reference, "SendMessage", Important).
EVIL_MESSAGE = "\x9b2J\u202eevil\u2066\x7f\r\nEmailStatus    Sent"
MESSAGE_SHOWN = r"\x9b2J\u202eevil\u2066\x7f"


def is_harmless(result: Result) -> bool:
    """Whether the command ended without a traceback, and all its lines are printable."""
    lines = (result.stdout + result.stderr).split("\n")
    return isinstance(result.exception, SystemExit | None) and all(line.isprintable() for line in lines)


def put(table: str, item: dict[str, Any]) -> None:
    """Write an item without any checks, as anybody could."""
    typed = {name: TypeSerializer().serialize(value) for name, value in item.items()}
    client("dynamodb", get_settings()).put_item(TableName=table, Item=typed)


@pytest.fixture
def evil(run: Run, settings: Settings) -> str:
    """Return the id of a row and of an event in which every attribute is evil."""
    email_id = f"evil-{uuid.uuid4().hex[:8]}-\u202e\u009b"
    put(settings.table, dict.fromkeys((*ATTRIBUTES, "EmailStatus"), EVIL) | {"EmailId": email_id})
    put(settings.events_table, dict.fromkeys(EVENT, EVIL) | {"EmailId": email_id, "EventId": EVIL})
    return email_id


def test_status_shows_escape_sequences_and_obeys_none(run: Run, evil: str) -> None:
    result = run("status", evil)
    assert result.exit_code == 0
    assert is_harmless(result)
    assert result.output.count(SHOWN) == len(ATTRIBUTES) + 1 + len(EVENT) - 2  # Permanent and Provider are not shown
    assert len(result.output.splitlines()) == len(ATTRIBUTES) + 3, "a value makes no line of its own"


def test_status_as_json_has_the_values_and_is_harmless(run: Run, evil: str) -> None:
    result = run("status", "--json", evil)
    assert is_harmless(result)
    story = json.loads(result.output)
    (event,) = story.pop("Events")
    assert story == dict.fromkeys((*ATTRIBUTES, "EmailStatus"), EVIL) | {"EmailId": evil}
    assert event == dict.fromkeys(EVENT, EVIL)


@pytest.mark.parametrize("arguments", [("cancel",), ("resolve", "--sent"), ("resolve", "--resend")], ids=" ".join)
def test_who_may_not_settle_a_row_is_told_its_status_harmlessly(
    run: Run, evil: str, arguments: tuple[str, ...]
) -> None:
    result = run(*arguments, evil)
    assert result.exit_code == 1
    assert SHOWN in result.stderr
    assert is_harmless(result)


def test_a_dead_letters_attributes_and_body_are_harmless(
    run: Run, settings: Settings, sqs: SQSClient, put_dead_letter: Callable[..., str]
) -> None:
    body = json.dumps({"email_id": "a\u202eb", "note": EVIL_MESSAGE}, ensure_ascii=False) + EVIL_MESSAGE
    attributes = dict.fromkeys(("Reason", "Detail", "Note"), EVIL_MESSAGE)
    message_id = put_dead_letter(settings.queue, body, attributes)
    for arguments in (
        ("list",),
        ("list", "--json"),
        ("show", message_id),
        ("show", "--body", message_id),
        ("redrive", "--reason", "none"),
        ("discard", message_id),
    ):
        result = run("dead-letters", *arguments, input="n\n")
        assert is_harmless(result), arguments
    assert run("dead-letters", "show", "--body", message_id).output.count(MESSAGE_SHOWN) == 5  # it is in the body twice


def test_a_dead_letter_that_stays_says_so_harmlessly(
    run: Run, settings: Settings, evil: str, put_dead_letter: Callable[..., str]
) -> None:
    email_id = "stays-\u202e"
    put(settings.table, {"EmailId": email_id, "EmailStatus": EVIL})
    put_dead_letter(settings.queue, json.dumps({"email_id": email_id}))
    result = run("dead-letters", "redrive")
    assert "stays" in result.stderr
    assert SHOWN in result.stderr
    assert is_harmless(result)


def test_put_and_enqueue_say_ids_harmlessly(run: Run, row: dict[str, Any]) -> None:
    row["EmailId"] = f"{row['EmailId']}\u202e"
    assert is_harmless(run("put", input=json.dumps(row)))
    assert is_harmless(run("put", input=json.dumps(row)))
    assert is_harmless(run("put", input=json.dumps({**row, "Headers": {EVIL: EVIL}})))
    assert is_harmless(run("enqueue", row["EmailId"]))
    assert is_harmless(run("enqueue", EVIL))


def test_a_sweep_names_what_failed_harmlessly(run: Run, settings: Settings, tmp_path: Path) -> None:
    put(settings.table, {"EmailId": EVIL, "EmailStatus": "Pending", "UpdatedAt": "2020-01-01"})
    put(settings.table, {"EmailId": "a\u202e", "EmailStatus": "Pending", "UpdatedAt": "2020-01-01"})
    assert is_harmless(run("sweep", "--position", str(tmp_path / "position")))


def test_a_dry_run_says_of_each_message_harmlessly_what_would_become_of_it(
    environment: None, evil: str, raw_queue: Queue, sqs: SQSClient
) -> None:
    for body in (json.dumps({"email_id": "a\u202e"}), EVIL_MESSAGE):
        sqs.send_message(QueueUrl=raw_queue.url, MessageBody=body)
    put(get_settings().table, {"EmailId": "a\u202e", "EmailStatus": EVIL})
    result = CliRunner().invoke(broker.main, ["--dry-run"])
    assert "would not be sent: already" in result.output
    assert is_harmless(result)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRow(EVIL),
        ResourcesMissing(EVIL),
        StoreRefused(EVIL),
        ClientError({"Error": {"Code": "Refused", "Message": EVIL}}, "PutItem"),
        EndpointConnectionError(endpoint_url=EVIL),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_aws_or_a_row_says_in_an_error_is_told_harmlessly(
    run: Run, row: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr("emails.decide.Email.from_row", refuse)
    monkeypatch.delenv("EMAIL_ENDPOINT_URL")  # otherwise the error contains only our own words
    monkeypatch.setenv("EMAIL_REGION", "eu-west-1")
    get_settings.cache_clear()
    result = run("put", input=json.dumps(row))
    assert SHOWN in result.stderr
    assert is_harmless(result)


def test_no_command_prints_but_by_the_two_that_clean() -> None:
    """Only our own output uses `rich`: progress, and the demo's table, which cleans its cells."""
    for file in COMMANDS.glob("*.py"):
        text = file.read_text()
        assert file.name == "__init__.py" or "click.echo" not in text, file
        assert file.name == "demo.py" or "console.print" not in text, file
        assert "style(" not in text
        assert "secho" not in text


@given(st.text())
def test_json_is_ascii_without_control_characters(text: str) -> None:
    runner = CliRunner()
    with runner.isolation() as (out, *_):
        say_json({"text": text})
    written = out.getvalue().decode().removesuffix("\n")
    assert written.isascii()
    assert written.isprintable()
    assert json.loads(written) == {"text": text}


# Every value that boto3 can make of an attribute.
scalars = (
    st.none()
    | st.booleans()
    | st.text(max_size=20)
    | st.binary(max_size=20).map(Binary)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.sampled_from([Decimal(-(10**12)), Decimal("1E+125"), Decimal("-1E+125"), Decimal("1E-130"), Decimal("1.5")])
    | st.sets(st.text(max_size=20), min_size=1, max_size=3)
    | st.sets(st.decimals(allow_nan=False, allow_infinity=False), min_size=1, max_size=3)
    | st.sets(st.binary(max_size=20).map(Binary), min_size=1, max_size=3)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=5,
)


def items(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), values, max_size=len(names))


@pytest.mark.slow
@hypothesis.settings(
    deadline=None, max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@given(row=items("EmailStatus", *ATTRIBUTES), events=st.lists(items(*EVENT), max_size=2))
def test_status_shows_any_row_and_any_history(
    run: Run, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], events: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr("commands.status.EmailStore.get", lambda *_: row)
    monkeypatch.setattr("commands.status.EventStore.of", lambda *_: events)
    for arguments in ((), ("--json",)):
        result = run("status", *arguments, "email-1")
        assert result.exit_code == 0, result.exception
        assert is_harmless(result)
    assert json.loads(result.output)["EmailId"] == "email-1"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("NextAttemptAt", Decimal(-(10**12)), "-1000000000000"),
        ("NextAttemptAt", Decimal(10**12), "1000000000000"),
        ("NextAttemptAt", Decimal("1769860800.5"), "2026-01-31T12:00:00+00:00"),
        ("ClaimExpiresAt", Decimal("1E+125"), str(10**125)),
        ("Attempts", Decimal("1.5"), "1.5"),
        ("Attempts", Binary(b"\x1b"), r"Binary(b'\x1b')"),
        ("FailureReason", {"b"}, "{'b'}"),
        ("FailureReason", {"a": ["b", None]}, "{'a': ['b', None]}"),
        ("Provider", {Decimal(1)}, "{Decimal('1')}"),
        ("EmailStatus", Binary(b"a"), "Binary(b'a')"),
        ("SentAt", True, "True"),
    ],
)
def test_status_shows_a_value_of_any_type(run: Run, settings: Settings, name: str, value: object, shown: str) -> None:
    put(settings.table, {"EmailId": "odd", "EmailStatus": "Pending"} | {name: value})
    result = run("status", "odd")
    assert result.exit_code == 0
    assert dict(line.split(maxsplit=1) for line in result.output.splitlines())[name] == shown
    assert json.loads(run("status", "--json", "odd").output)["EmailId"] == "odd"


def test_status_shows_a_history_that_is_of_any_type_and_incomplete(run: Run, settings: Settings) -> None:
    put(settings.table, {"EmailId": "odd", "EmailStatus": "Sent"})
    put(settings.events_table, {"EmailId": "odd", "EventId": "1", "OccurredAt": Binary(b"1"), "Recipient": {"a"}})
    put(settings.events_table, {"EmailId": "odd", "EventId": "2", "OccurredAt": "2026", "Permanent": Decimal(0)})
    assert run("status", "odd").output.splitlines()[-2:] == [
        "2026  no recipient named  None (temporary)",
        "Binary(b'1')  {'a'}  None",
    ]
