"""What docs/operations.md says that a command prints is what it prints, and the commands that it names exist."""

from __future__ import annotations

import json
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from click.testing import CliRunner

from commands import main
from emails.decide import ABANDONED
from emails.raw_queue import enqueue_ids
from emails.status import ABANDON, DISCARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_sqs import SQSClient

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore
    from settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
# A shortened id (`0c6a1d4e…`) stands for the same one throughout its section; a lone … for anything within its line.
PLACEHOLDER = re.compile(r"[\w-]*…")


def sections() -> dict[str, str]:
    """The sections that have console blocks, by their headings."""
    _, *found = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    return {
        heading: text for heading, _, text in (section.partition("\n") for section in found) if "```console" in text
    }


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of the console blocks, with what the page says that it prints."""
    for block in re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed


def pattern(printed: str, known: dict[str, str]) -> str:
    """A regular expression for the text, with a group for each placeholder that is not known yet."""
    expression, end = "", 0
    for placeholder in PLACEHOLDER.finditer(printed):
        name = placeholder.group()
        expression += re.escape(printed[end : placeholder.start()])
        if name == "…":
            expression += ".*"
        elif name in known:
            expression += re.escape(known[name])
        elif name in printed[: placeholder.start()]:
            expression += f"(?P={group(name)})"
        else:
            expression += rf"(?P<{group(name)}>[\w-]+)"
        end = placeholder.end()
    return expression + re.escape(printed[end:])


def group(placeholder: str) -> str:
    return "_" + re.sub(r"\W", "_", placeholder)


@pytest.fixture
def dead_letters_appear(settings: Settings, put_dead_letter: Callable[..., str]) -> None:
    put_dead_letter(settings.queue, '{"email_id": "order-1041"}')
    for body in ("order-1039", "order-1040"):
        put_dead_letter(settings.queue, body, {"Reason": "NotJson", "Detail": "the body is not JSON"})
    message = {"body": json.dumps([["order-1042"], {}, {}]), "headers": {"task": "tasks.load_email"}}
    missing = {"Reason": "EmailNotFound", "Detail": "no row appeared within 60 seconds"}
    put_dead_letter(settings.tasks_queue, json.dumps(message), missing)


@pytest.fixture
def what_needs_a_person_and_how_to_find_it(store: EmailStore, row: dict[str, Any]) -> None:
    refused = "no connection to the SMTP server: ConnectionRefusedError (attempt 8, the last)"
    reasons = ("BodyText: is missing, as is BodyHtml", refused, refused, ABANDONED)
    now = time.time()
    with pytest.MonkeyPatch.context() as patch:
        for number, reason in enumerate(reasons):
            patch.setattr("time.time", lambda moment=now - 600 + 60 * number: moment)
            email_id = f"order-{1041 + number}"
            store.put({**row, "EmailId": email_id})
            if reason == ABANDONED:
                store.claim(email_id, lease=-5)
                store.end(email_id, ABANDON, reason)
            else:
                store.end(email_id, DISCARD, reason)


@pytest.fixture
def a_row_is_unknown(store: EmailStore, row: dict[str, Any]) -> None:
    store.put({**row, "EmailId": "order-1044"})
    store.claim("order-1044", lease=-5)
    store.end("order-1044", ABANDON, ABANDONED)


@pytest.fixture
def the_backlog_grows(
    settings: Settings, sqs: SQSClient, raw_queue: Queue, put_dead_letter: Callable[..., str]
) -> None:
    enqueue_ids(raw_queue, ["order-1", "order-2", "order-3"])
    tasks = sqs.get_queue_url(QueueName=settings.tasks_queue)["QueueUrl"]
    for _ in range(2):
        sqs.send_message(QueueUrl=tasks, MessageBody="{}", DelaySeconds=900)
    put_dead_letter(settings.tasks_queue, "{}")


@pytest.mark.parametrize("heading", sections())
def test_the_page_says_what_the_commands_print(
    heading: str, request: pytest.FixtureRequest, environment: None, settings: Settings
) -> None:
    """The situation is made by the fixture of the section's name."""
    request.getfixturevalue(re.sub(r"\W+", "_", heading.lower()))
    known: dict[str, str] = {}
    for written, printed in commands(sections()[heading].replace("production", settings.stage)):
        command = written
        for placeholder in PLACEHOLDER.findall(command):
            command = command.replace(placeholder, known[placeholder])
        output = ""
        for each in command.split(" | "):
            program, *arguments = shlex.split(each)
            assert program == "email-service"
            output = CliRunner().invoke(main, arguments, input=output).output
        match = re.fullmatch(pattern(printed, known), output)
        assert match, f"{command}\nprints\n{output}\nand the page says\n{printed}"
        names = {group(name): name for name in PLACEHOLDER.findall(printed)}
        known |= {names[name]: value for name, value in match.groupdict().items()}


NAMED = re.compile(r"`(?:email-service )?([a-z][a-z-]+(?: [^`…]*)?)`")


def named_commands() -> list[str]:
    """The command lines in the page's text, as a person would type them after `email-service`."""
    text = re.sub(r"^```.*?^```", "", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    known = main.list_commands(click.Context(main))
    return [line for line in dict.fromkeys(NAMED.findall(text)) if line.split()[0] in known]


@pytest.mark.parametrize("line", named_commands())
def test_a_command_that_the_page_names_exists_with_its_options(line: str) -> None:
    """Commands that need a worker, an id or a person cannot all be run here, so their help is asked for."""
    words = shlex.split(line)
    names = [word for word in words[:2] if word.islower() and not word.startswith("-")]
    shown = CliRunner().invoke(main, [*names, "--help"])
    assert shown.exit_code == 0, shown.output
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", shown.output), f"{option} in {line}"


def test_the_page_names_the_commands_that_find_and_resolve_emails() -> None:
    assert {"list --status Pending", "list --recipient ADDRESS", "provision --backfill"} <= {*named_commands()}
