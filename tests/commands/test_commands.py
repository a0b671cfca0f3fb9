"""The commands that a person types, and what they print."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import uuid
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from rich.progress import Progress, TaskID

from commands import main
from emails.callbacks import parse_callback
from emails.tracking import Tracking
from settings import get_settings
from settings.aws import client
from tests.emails.callbacks.notifications import event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

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
    assert "\\b" not in result.output


@pytest.mark.parametrize("command", [None, *main.list_commands(None)], ids=str)  # type: ignore[arg-type]  # as above
def test_every_command_has_the_short_help_and_its_version(run: Callable[..., Result], command: str | None) -> None:
    arguments = [command] if command else []
    assert run(*arguments, "-h").output == run(*arguments, "--help").output
    result = run(*arguments, "--version")
    assert result.exit_code == 0
    assert version("email-service") in result.output


def test_a_command_names_a_variable_that_is_no_setting(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_STAEG", "production")
    result = run("queues", "--json")
    assert result.exit_code == 0
    assert result.stderr == "Warning: EMAIL_STAEG is not a setting, so it is ignored. Did you mean EMAIL_STAGE?\n"


@pytest.mark.parametrize("arguments", [("status", "x"), ("cancel", "x"), ("enqueue", "x"), ("queues",), ("provision",)])
def test_without_credentials_a_command_says_so(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    without_credentials(monkeypatch, tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: There are no usable AWS credentials for eu-west-1")
    assert "provision" not in result.stderr


def without_credentials(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make boto3 find no credentials in a real region, wherever this runs."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
    monkeypatch.delenv("EMAIL_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("EMAIL_REGION", "eu-west-1")
    get_settings.cache_clear()
    monkeypatch.setattr("settings.aws._session", boto3.Session)  # a cached session remembers its credentials


def test_a_table_that_is_missing_is_named_with_the_command_that_creates_it(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_TABLE_NAME", "emails_missing")
    get_settings.cache_clear()
    result = run("status", "x")
    assert result.exit_code == 1
    assert "There is no table emails_missing" in result.output
    assert result.output.endswith("create it: email-service provision\n")


def test_ctrl_c_ends_a_command_with_130(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("commands.status.EmailStore.from_settings", interrupt)
    result = run("status", "x")
    assert (result.exit_code, result.output) == (130, "Interrupted.\n")


@pytest.mark.parametrize("program", ["email-service", "email_broker"])
@pytest.mark.parametrize("module", ["botocore.exceptions", "emails.printable", "emails.mime"])
def test_ctrl_c_during_the_imports_is_no_traceback(program: str, module: str, tmp_path: Path) -> None:
    """A module of that name raises what Ctrl-C raises, as soon as it is imported."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    path = Path(sys.executable).with_name(program)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "EMAIL_ENDPOINT_URL": "http://127.0.0.1:9"}
    arguments = ["put", os.devnull] if program == "email-service" else ["--dry-run"]
    result = subprocess.run([path, *arguments], env=environment, capture_output=True, text=True, check=False)
    if program == "email-service" and module == "emails.mime":
        assert result.returncode == 1, "put does not need this module"
        return
    assert result.returncode == 130
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["provision"], ["queues"], ["sweep"], pytest.param(["dead-letters", "list"], marks=pytest.mark.slow)],
)
def test_a_closed_output_pipe_shows_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    path = Path(sys.executable).with_name("email-service")
    result = subprocess.run(
        [path, *arguments], stdout=writing, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path
    )
    os.close(writing)
    assert result.stderr == ""


def test_the_shell_completes_commands_as_the_docs_say(run: Callable[..., Result]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    (line,) = re.findall(r'^eval "\$\((\w+)=(\w+) email-service\)"$', text, re.MULTILINE)
    program = Path(sys.executable).with_name("email-service")
    for shell in ("bash_source", "zsh_source", "fish_source"):
        environment = os.environ | {line[0]: shell}
        result = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
        assert "email-service" in result.stdout
    assert line[1] == "bash_source"


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


def test_provision_check_tries_grouped_requests_and_leaves_no_row(
    run: Callable[..., Result], settings: Settings
) -> None:
    result = run("provision", "--check")
    assert result.exit_code == 0
    assert result.output.splitlines()[-2:] == [
        f"checked grouped reads of table {settings.table}",
        f"checked grouped claims and records of table {settings.table}",
    ]
    assert client("dynamodb", settings).scan(TableName=settings.table)["Items"] == []


def test_provision_check_says_what_failed_and_what_that_means(
    run: Callable[..., Result], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    dynamodb = client("dynamodb", settings)
    refused = {"Error": {"Code": "ValidationError", "Message": "not supported here"}}
    dynamodb.meta.events.register(
        "after-call.dynamodb.BatchExecuteStatement", lambda parsed, **_: parsed.update(Responses=[refused] * 2)
    )
    monkeypatch.setattr("emails.store.check.client", lambda *_: dynamodb)
    result = run("provision", "--check")
    assert result.exit_code == 1
    assert f"checked grouped reads of table {settings.table}" in result.stdout
    assert result.stderr.startswith("Error: a claim failed: ValidationError: not supported here. Workers notice this, ")
    assert "EMAIL_GROUPED_REQUESTS=off" in result.stderr
    assert dynamodb.scan(TableName=settings.table)["Items"] == []


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


def errors_of(result: Result) -> str:
    """What the command printed, without the warning that workers do not know the attribute."""
    return "".join(line for line in result.output.splitlines(keepends=True) if not line.startswith("Warning: "))


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
    assert re.fullmatch(
        rf"Error: This row [^\n]*: {attribute}: (has a number|should be less) [^\n]*\n", errors_of(result)
    )


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
    assert errors_of(result).startswith(f"Error: This row cannot be stored: Customer: {wrong}")
    assert errors_of(result).count("\n") == 1


def test_put_refuses_a_row_that_is_too_large(run: Callable[..., Result], row: dict[str, Any]) -> None:
    result = put_json(run, row, "Customer", json.dumps("x" * 420_000))
    assert result.exit_code == 1
    assert errors_of(result).startswith("Error: This row cannot be stored: DynamoDB refused the request: ")
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


def test_an_interrupted_enqueue_says_how_many_it_enqueued(
    run: Callable[..., Result], raw_queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked(email_ids: Iterable[str]) -> Iterator[str]:
        for number, email_id in enumerate(email_ids):
            if number == 25:
                raise KeyboardInterrupt
            yield email_id

    monkeypatch.setattr("commands.enqueue._checked", checked)
    result = run("enqueue", "--no-check", *(f"id-{number}" for number in range(30)))
    assert result.exit_code == 130
    assert result.stderr == f"stopped after 20 were enqueued on {raw_queue.name}.\nInterrupted.\n"


@pytest.mark.parametrize("extra", [(), ("another",)])
def test_the_progress_of_enqueue_has_a_total_if_the_input_is_a_file(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: tuple[str, ...]
) -> None:
    totals = []
    monkeypatch.setattr(Progress, "add_task", lambda *_, total: totals.append(total) or TaskID(0))
    monkeypatch.setattr(Progress, "advance", lambda *_: None)
    file = tmp_path / "ids.txt"
    file.write_text("id-1\n\nid-2\n")
    assert run("enqueue", "--from-file", str(file), *extra).exit_code == 0
    assert totals == [2 + len(extra)]


def test_ids_from_a_pipe_are_enqueued_without_a_total(settings: Settings, environment: None) -> None:
    program = Path(sys.executable).with_name("email-service")
    result = subprocess.run(
        [program, "enqueue"], input="id-1\nid-2\n", capture_output=True, text=True, check=False, env=os.environ
    )
    assert result.stdout == f"2 enqueued on {settings.queue}.\n", result.stderr


def test_queues_as_json_has_each_count(run: Callable[..., Result], settings: Settings, raw_queue: Queue) -> None:
    run("enqueue", "x")
    counts = json.loads(run("queues", "--json").stdout)
    assert set(counts) == set(settings.queues)
    assert counts[raw_queue.name] == {"Ready": 1, "InFlight": 0, "Delayed": 0, "DeadLettered": 0}


def test_help_shows_the_examples_line_by_line(run: Callable[..., Result]) -> None:
    lines = [line.strip() for line in run("enqueue", "--help").output.splitlines()]
    assert "email-service enqueue test-1 test-2" in lines
    assert "email-service enqueue --bulk --from-file ids.txt" in lines


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
    assert f"nobody has no row in {settings.table}. To write and enqueue one: email-service send FILE" in result.output
