"""What a task raises goes into logs, events and Flower."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from celery_sqs.exceptions import PublishRefused
from emails.store import StoreRefused, StoreUnavailable
from emails.unforeseen import Unforeseen
from tasks.task import Task

SECRET = "ada" + "@example.com"  # in two parts, since a traceback shows the source


def raised_by_a_task(error: Exception) -> Exception:
    class Failing(Task):
        name = "failing"

        def run(self, *args: Any, **kwargs: Any) -> Any:
            raise error from ValueError(SECRET)

    with pytest.raises(Exception) as raised:  # noqa: PT011 (whichever it is)
        Failing()()
    return raised.value


@pytest.mark.parametrize("error", [KeyError(SECRET), RuntimeError(SECRET), OSError(1, SECRET)], ids=repr)
def test_what_nobody_foresaw_is_its_type_and_place_with_its_frames(error: Exception) -> None:
    raised = raised_by_a_task(error)
    assert isinstance(raised, Unforeseen)
    assert str(raised).startswith(f"{type(error).__name__} in run (tasks/test_task.py:")
    text = "".join(traceback.format_exception(raised))
    assert "in run" in text
    assert SECRET not in text + repr(raised)


@pytest.mark.parametrize("error", [StoreRefused("it grows"), StoreUnavailable("away"), PublishRefused("refused")])
def test_what_was_foreseen_stays_without_its_cause(error: Exception) -> None:
    raised = raised_by_a_task(error)
    assert raised is error
    assert SECRET not in "".join(traceback.format_exception(raised))


@pytest.mark.parametrize("error", [Reject("x"), Retry("x"), OperationalError("x"), SoftTimeLimitExceeded()], ids=repr)
def test_what_celery_goes_by_passes(error: Exception) -> None:
    assert raised_by_a_task(error) is error
