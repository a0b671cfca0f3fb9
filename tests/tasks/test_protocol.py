"""Which email a Celery message is about."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from emails.message import InvalidMessage
from tasks import pipeline
from tasks.protocol import EMAIL_TASKS, email_id_of


def message(task: str, *args: Any, **kwargs: Any) -> str:
    body = json.dumps([args, kwargs, {}])
    return json.dumps({"body": body, "headers": {"task": task, "id": "1"}, "properties": {}})


@pytest.mark.parametrize(
    "body",
    [
        message("tasks.process_email", "test-1"),
        message("tasks.process_email", email_id="test-1"),
        message("tasks.load_email", "test-1", 1.5),
        message("tasks.send_email", "test-1"),
        base64.b64encode(message("tasks.process_email", "test-1").encode()).decode(),
    ],
)
def test_a_message_for_a_task_that_works_on_one_email_names_it(body: str) -> None:
    assert email_id_of(body) == "test-1"


@pytest.mark.parametrize(
    "body",
    [
        "no JSON",
        "7",
        "[]",
        "{}",
        "[" * 100_000,
        message("tasks.reap"),
        message("tasks.bridge", "private"),
        message("another", "private"),
        message("tasks.process_email"),
        message("tasks.process_email", 7),
        json.dumps({"body": 7, "headers": []}),
        json.dumps({"body": "{}", "headers": {"task": "tasks.process_email"}}),
    ],
)
def test_no_other_message_names_an_email(body: str) -> None:
    with pytest.raises(InvalidMessage):
        email_id_of(body)


def test_the_tasks_are_those_of_the_pipeline() -> None:
    assert {pipeline.process_email.name, pipeline.load_email.name, pipeline.send_email.name} == EMAIL_TASKS
