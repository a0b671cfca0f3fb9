"""Which event monitors get for a task that has returned. tests/tasks/flower has the pages that show it."""

from __future__ import annotations

from typing import Any

import pytest
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from emails.outcome import Done
from emails.status import NEEDS_PERSON, EmailStatus
from tasks.request import Request, ended_badly


class Eventer:
    enabled = True

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.sent.append((kind, fields))


def event_of(result: str, *args: object) -> tuple[str, dict[str, Any]]:
    """Return the event for a task with these arguments that has returned this result."""
    from tasks.pipeline import load_email  # noqa: PLC0415 (it needs the settings that the fixtures replace)

    request = Request.__new__(Request)
    request._eventer, request._task, request._args, request.id = Eventer(), load_email, list(args), "1"
    request.send_event("task-succeeded", result=saferepr(result), runtime=0.1)
    (sent,) = request._eventer.sent
    return sent


@pytest.mark.parametrize("status", EmailStatus)
@pytest.mark.parametrize("detail", ["", "the server said 'no'", "it's: gone", "x" * 5000])
def test_only_an_email_that_needs_a_person_is_reported_as_a_failed_task(status: EmailStatus, detail: str) -> None:
    result = str(Done(status, detail))
    kind, fields = event_of(result, "order-1")
    assert fields["result"] == saferepr(result)
    if status in NEEDS_PERSON:
        assert kind == "task-failed"
        assert fields["exception"] == saferepr(result)
    else:
        assert (kind, "exception" in fields) == ("task-succeeded", False)


@pytest.mark.parametrize("email_id", ["Failed", "Unknown: order-1", "Failed: 'x'", "order-1"])
def test_an_id_is_not_taken_for_a_status(email_id: str) -> None:
    assert event_of(email_id, email_id)[0] == "task-succeeded"


@pytest.mark.parametrize("result", ["already Failed", "Failed-1", "Unknowns: 3", "", "Sent: Failed"])
def test_no_other_result_counts_as_failed(result: str) -> None:
    assert event_of(result, "order-1")[0] == "task-succeeded"


@given(result=st.none() | st.text() | st.integers())
def test_any_result_can_be_judged(result: object) -> None:
    assert ended_badly(result) in (True, False)
