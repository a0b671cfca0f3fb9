"""The event source mappings that a pause disables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from emails import pause_lambda
from emails.pause import StagePause

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from settings import Settings


class Functions:
    """AWS Lambda with a mapping for each of some queues."""

    def __init__(self) -> None:
        self.mappings: dict[str, dict[str, str]] = {}
        self.denied = False

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
        if self.denied:
            raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "ListEventSourceMappings")
        queue = EventSourceArn.rpartition(":")[2]
        found = [mapping for mapping in self.mappings.values() if mapping["queue"] == queue]
        return [{"EventSourceMappings": []}, {"EventSourceMappings": found}]

    def update_event_source_mapping(self, UUID: str, Enabled: bool) -> None:  # noqa: N803 (boto3's names)
        if UUID not in self.mappings:
            raise ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "UpdateEventSourceMapping")
        self.mappings[UUID]["State"] = "Enabled" if Enabled else "Disabled"


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
    functions.denied = True
    result = run("pause", "--reason", "provider down")
    assert result.exit_code == 1
    assert "lambda:UpdateEventSourceMapping" in result.output
    assert StagePause.from_settings(settings).read()
