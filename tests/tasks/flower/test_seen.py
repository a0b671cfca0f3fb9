"""What Flower's tasks tell about emails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Reject
from celery.utils.saferepr import saferepr
from hypothesis import given
from hypothesis import strategies as st

from celery_sqs.sqs.dead_letters import Reason
from tasks.flower.seen import email_id_of, newest, outcome_of, tasks_of


def task(name: str, args: str | None = None, **attributes: Any) -> Any:
    known = {"result": None, "exception": None, "state": "SUCCESS", "timestamp": 1.0}
    return SimpleNamespace(**known | {"name": name, "args": args} | attributes)


@given(st.text(min_size=1, max_size=60).filter(lambda text: "\\" not in text))
def test_the_id_is_found_in_what_celery_writes_of_arguments_and_results(email_id: str) -> None:
    for args in ((email_id,), (email_id, None), [email_id]):
        assert email_id_of(task("tasks.send_email", saferepr(args))) == email_id
    assert email_id_of(task("tasks.bridge", "(<body of 9 bytes>,)", result=saferepr(email_id))) == email_id


@given(
    st.none() | st.text(), st.none() | st.text(), st.sampled_from(["tasks.bridge", "tasks.send_email", "other", None])
)
def test_no_text_breaks_it(args: str | None, result: str | None, name: str) -> None:
    found = task(name, args, result=result, exception=args, state="FAILURE")
    assert isinstance(email_id_of(found), str)
    assert isinstance(outcome_of(found), str)


def test_another_tasks_arguments_are_not_taken_for_an_id() -> None:
    assert (
        newest([task("tasks.record_callback", "('x',)"), task("other", "('x',)"), task("tasks.bridge", "('x',)")]) == []
    )


def test_each_email_is_there_once_with_its_latest_task() -> None:
    tasks = [task("tasks.load_email", "('a',)", timestamp=1), task("tasks.send_email", "('a',)", timestamp=3)]
    tasks += [task("tasks.send_email", "('b',)", timestamp=4), task("tasks.load_email", "('b',)", timestamp=2)]
    assert [(each.email_id, each.task.name) for each in newest(tasks)] == [
        ("b", "tasks.send_email"),
        ("a", "tasks.send_email"),
    ]
    assert tasks_of("b", tasks) == [tasks[3], tasks[2]]


@pytest.mark.parametrize(
    ("attributes", "shown"),
    [
        ({"result": "'Sent'"}, "'Sent'"),
        ({"result": "'Failed: x'", "exception": "'Failed: x'", "state": "FAILURE"}, "'Failed: x'"),
        ({"exception": "KeyError in send (a/b.py:1)", "state": "FAILURE"}, "KeyError in send (a/b.py:1)"),
        ({"exception": "Retry(Retry(...), None, 0.8)", "state": "RETRY"}, ""),
        (
            {"exception": saferepr(Reject(Reason("NotJson", "it's no JSON"), requeue=False)), "state": "FAILURE"},
            "dead letter: NotJson: it's no JSON",
        ),
    ],
)
def test_it_says_how_a_task_ended(attributes: dict[str, Any], shown: str) -> None:
    assert outcome_of(task("tasks.send_email", **attributes)) == shown
