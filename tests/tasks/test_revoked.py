"""A task that was revoked or has expired leaves no email Pending without a message that would send it."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from emails.store import StoreUnavailable
from tasks import pipeline as pipeline_module
from tests.support.pipeline import another_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.pipeline import Pipeline

    Row = dict[str, Any]
    Expire = Callable[..., str]


@pytest.fixture
def expire(pipeline: Pipeline) -> Iterator[Expire]:
    """Send an expired task of this name, as another program would. Return its id."""
    program = another_program(pipeline.settings)
    long_ago = datetime.now(UTC) - timedelta(hours=1)

    def send(task: str, *arguments: object) -> str:
        sent = program.send_task(task, arguments, queue=pipeline.settings.tasks_queue, expires=long_ago)
        task_id: str = sent.id
        return task_id

    yield send
    program.close()


@pytest.mark.parametrize("task", ["tasks.process_email", "tasks.load_email", "tasks.send_email"])
def test_an_expired_task_leaves_its_email_failed_with_the_reason(
    pipeline: Pipeline, row: Row, expire: Expire, task: str
) -> None:
    pipeline.store.put(row)
    expire(task, row["EmailId"])
    pipeline.wait_until(lambda: pipeline.status(row) == "Failed")
    assert (pipeline.store.get(row["EmailId"]) or {})["FailureReason"] == "expired"


def test_an_expired_bridge_leaves_the_email_of_its_body_failed(pipeline: Pipeline, row: Row, expire: Expire) -> None:
    pipeline.store.put(row)
    expire("tasks.bridge", json.dumps({"email_id": row["EmailId"]}))
    pipeline.wait_until(lambda: pipeline.status(row) == "Failed")
    assert (pipeline.store.get(row["EmailId"]) or {})["FailureReason"] == "expired"


@pytest.mark.parametrize("status", ["Sending", "Sent", "Unknown", "Waiting"])
def test_an_expired_duplicate_leaves_an_email_that_is_not_pending_as_it_is(
    pipeline: Pipeline, row: Row, expire: Expire, status: str
) -> None:
    pipeline.store.put(row | {"EmailStatus": status})
    task_id = expire("tasks.load_email", row["EmailId"])
    pipeline.wait_until(lambda: f"revoked task: tasks.load_email[{task_id}]" in pipeline.log(), what="it is discarded")
    # The worker handles one after the other.
    another = row | {"EmailId": f"{row['EmailId']}-another"}
    pipeline.store.put(another)
    expire("tasks.load_email", another["EmailId"])
    pipeline.wait_until(lambda: pipeline.status(another) == "Failed")
    assert pipeline.store.get(row["EmailId"]) == row | {"EmailStatus": status}


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("tasks.bridge", ["no JSON"]),
        ("tasks.process_email", ["no-such-row"]),
        ("tasks.process_email", []),
        ("tasks.process_email", [7]),
        ("tasks.process_email", [""]),
        ("tasks.process_email", ["x" * 3000]),
    ],
    ids=["no body", "no row", "no id", "no string", "empty", "too long"],
)
def test_an_expired_task_of_no_email_stops_nobody(
    pipeline: Pipeline, row: Row, expire: Expire, task: str, arguments: list[Any]
) -> None:
    task_id = expire(task, *arguments)
    pipeline.wait_until(lambda: f"revoked task: {task}[{task_id}]" in pipeline.log(), what="it is discarded")
    row["EmailId"] = f"after-{uuid.uuid4().hex}"
    pipeline.store.put(row)
    pipeline.enqueue(row["EmailId"])
    pipeline.wait_until(lambda: pipeline.status(row) == "Sent")


@pytest.mark.parametrize(
    ("expired", "reason"), [(True, "expired"), (False, "cancelled: its task was revoked")], ids=["expired", "revoked"]
)
def test_the_reason_says_whether_the_task_expired_or_was_revoked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, expired: bool, reason: str
) -> None:
    reasons: list[str] = []

    class Recorder:
        def cancel(self, email_id: str, reason: str) -> bool:
            reasons.append(reason)
            return True

    monkeypatch.setattr(pipeline_module, "get_sender", Recorder)
    request = SimpleNamespace(id="task-1", args=["email-1"])
    pipeline_module.explain_revoked(pipeline_module.load_email, request, expired=expired)
    assert reasons == [reason]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("WARNING", f"Failed: {reason}")]


@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
def test_while_dynamodb_is_away_a_revoked_task_is_logged_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The consumer's thread writes the log, within the client's time-outs (tests/settings/test_aws.py)."""

    class Away:
        def cancel(self, email_id: str, reason: str) -> bool:
            raise StoreUnavailable("DynamoDB cannot be reached")

    monkeypatch.setattr(pipeline_module, "get_sender", Away)
    request = SimpleNamespace(id="task-1", args=["email-1"])
    with caplog.at_level("ERROR", pipeline_module.logger.name):
        pipeline_module.explain_revoked(pipeline_module.load_email, request, expired=False)
    assert "revoked task task-1 is unchanged; a sweep will find it: DynamoDB cannot be reached" in caplog.text
