"""The event source mappings that a pause disables."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from emails import pause_lambda
from emails.pause import StagePause
from emails.resources import find_queue
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from settings import Settings


class Functions:
    """AWS Lambda with a mapping for each of some queues.

    `denied` has the actions that the caller may not do. A mapping in `busy` cannot be updated yet.
    """

    def __init__(self) -> None:
        self.mappings: dict[str, dict[str, str]] = {}
        self.denied: set[str] = set()
        self.busy: set[str] = set()

    def add(self, queue: str, state: str = "Enabled") -> str:
        uuid = f"mapping-{len(self.mappings)}"
        arn = f"arn:aws:lambda:us-east-1:123456789012:function:send_{queue}:live"
        self.mappings[uuid] = {"UUID": uuid, "FunctionArn": arn, "State": state, "queue": queue}
        return uuid

    def states(self) -> list[str]:
        return [mapping["State"] for mapping in self.mappings.values()]

    def get_paginator(self, name: str) -> Functions:
        assert name == "list_event_source_mappings"
        return self

    def paginate(self, EventSourceArn: str) -> list[dict[str, Any]]:  # noqa: N803 (boto3's name)
        self._check("ListEventSourceMappings", "AccessDeniedException" if "list" in self.denied else "")
        queue = EventSourceArn.rpartition(":")[2]
        found = [mapping for mapping in self.mappings.values() if mapping["queue"] == queue]
        return [{"EventSourceMappings": []}, {"EventSourceMappings": found}]

    def update_event_source_mapping(self, UUID: str, Enabled: bool) -> None:  # noqa: N803 (boto3's names)
        action = "UpdateEventSourceMapping"
        self._check(action, "AccessDeniedException" if "update" in self.denied else "")
        self._check(action, "ResourceNotFoundException" if UUID not in self.mappings else "")
        self._check(action, "ResourceInUseException" if UUID in self.busy else "")
        self.busy.add(UUID)  # until AWS has done it, which takes about a minute
        self.mappings[UUID]["State"] = "Enabled" if Enabled else "Disabled"

    @staticmethod
    def _check(action: str, code: str) -> None:
        if code:
            raise ClientError({"Error": {"Code": code}}, action)


@pytest.fixture
def functions(monkeypatch: pytest.MonkeyPatch) -> Functions:
    functions = Functions()
    real = pause_lambda.client
    monkeypatch.setattr(
        pause_lambda,
        "client",
        lambda service, settings: functions if service == "lambda" else real(service, settings),
    )
    return functions


def test_a_pause_disables_what_is_enabled_but_callbacks_and_resume_enables_only_that(
    run: Callable[..., Result], functions: Functions, settings: Settings
) -> None:
    functions.add(settings.queue)
    functions.add(settings.bulk_queue, "Disabled")  # by somebody else
    functions.add(settings.callbacks_queue)
    result = run("pause", "--reason", "provider down")
    assert f"of {settings.queue} to the function send_{settings.queue}:live" in result.output
    assert functions.states() == ["Disabled", "Disabled", "Enabled"]
    run("pause", "--reason", "provider still down")
    functions.busy.clear()
    run("resume")
    assert functions.states() == ["Enabled", "Disabled", "Enabled"]
    assert StagePause.from_settings(settings).read() is None


def test_a_mapping_that_was_deleted_meanwhile_does_not_stop_a_resume(
    run: Callable[..., Result], functions: Functions, settings: Settings
) -> None:
    uuid = functions.add(settings.queue)
    run("pause", "--reason", "provider down")
    functions.mappings.clear()
    assert f"{uuid} is gone" in run("resume").output
    assert StagePause.from_settings(settings).read() is None


def test_who_may_not_disable_mappings_pauses_the_workers_and_is_told_about_functions(
    run: Callable[..., Result], functions: Functions, settings: Settings
) -> None:
    functions.denied = {"list"}
    result = run("pause", "--reason", "provider down")
    assert result.exit_code == 1
    assert "lambda:UpdateEventSourceMapping" in result.output
    assert StagePause.from_settings(settings).read()


@pytest.mark.parametrize(
    ("state", "is_disabled"),
    [
        ("Creating", True),
        ("Enabling", True),
        ("Enabled", True),
        ("Updating", True),
        ("Disabling", False),
        ("Disabled", False),
        ("Deleting", False),
    ],
)
def test_a_mapping_is_disabled_unless_it_is_or_will_be_soon(
    functions: Functions, settings: Settings, state: str, is_disabled: bool
) -> None:
    uuid = functions.add(settings.tasks_queue, state)
    assert [mapping.uuid for mapping in pause_lambda.enabled_mappings(settings)] == [uuid] * is_disabled


def test_resume_enables_what_a_pause_that_was_cut_short_may_have_disabled(
    run: Callable[..., Result], functions: Functions, settings: Settings
) -> None:
    """The update may reach AWS without an answer, so each mapping is noted before it."""
    uuids = [functions.add(queue) for queue in (settings.queue, settings.bulk_queue)]
    functions.busy = {uuids[1]}
    assert run("pause", "--reason", "provider down").exit_code == 1
    functions.busy.clear()
    functions.mappings[uuids[1]]["State"] = "Disabled"  # the update took effect after all
    assert run("resume").exit_code == 0
    assert functions.states() == ["Enabled", "Enabled"]


def test_a_pause_that_is_repeated_after_an_error_notes_each_mapping_once(
    run: Callable[..., Result], functions: Functions, settings: Settings
) -> None:
    """AWS refuses a second update of a mapping while it does the first one, so `resume` would never succeed."""
    uuid = functions.add(settings.queue)
    functions.busy = {uuid}
    assert "Pause again" in run("pause", "--reason", "provider down").output
    functions.busy.clear()
    assert run("pause", "--reason", "provider down").exit_code == 0
    functions.busy.clear()
    assert run("resume").exit_code == 0
    assert functions.states() == ["Enabled"]


@pytest.mark.parametrize("why", ["denied", "busy"])
def test_a_stage_stays_paused_and_says_so_until_its_mappings_are_enabled(
    run: Callable[..., Result], functions: Functions, settings: Settings, why: str
) -> None:
    uuid = functions.add(settings.queue)
    run("pause", "--reason", "provider down")  # AWS is still disabling the mapping
    if why == "denied":
        functions.denied = {"update"}
    result = run("resume")
    assert result.exit_code == 1
    assert "still paused" in result.output
    pause = StagePause.from_settings(settings).read()
    assert pause
    assert pause.mappings == (uuid,)
    functions.denied.clear()
    functions.busy.clear()
    assert run("resume").exit_code == 0
    assert functions.states() == ["Enabled"]


@pytest.fixture
def mapping(settings: Settings) -> Iterator[str]:
    """The UUID of a mapping of the raw queue to the alias of a function, in the emulator."""
    functions, code = client("lambda", settings), io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("main.py", "def handle(event, context): pass")
    functions.create_function(
        FunctionName=settings.stage,
        Runtime="python3.13",
        Role="arn:aws:iam::123456789012:role/send",
        Handler="main.handle",
        Code={"ZipFile": code.getvalue()},
        Publish=True,
    )
    alias = functions.create_alias(FunctionName=settings.stage, Name="live", FunctionVersion="1")["AliasArn"]
    arn = find_queue(client("sqs", settings), settings.queue).attributes("QueueArn")["QueueArn"]
    uuid = functions.create_event_source_mapping(EventSourceArn=arn, FunctionName=alias)["UUID"]
    yield uuid
    functions.delete_event_source_mapping(UUID=uuid)
    functions.delete_function(FunctionName=settings.stage)


def test_a_mapping_of_a_deployed_function_is_disabled_and_enabled_again(
    run: Callable[..., Result], mapping: str, settings: Settings
) -> None:
    functions = client("lambda", settings)
    paused = run("pause", "--reason", "provider down")
    assert f"of {settings.queue} to the function {settings.stage}:live" in paused.output
    assert functions.get_event_source_mapping(UUID=mapping)["State"] == "Disabled"
    assert f"enabled the event source mapping {mapping}" in run("resume").output
    assert functions.get_event_source_mapping(UUID=mapping)["State"] == "Enabled"
