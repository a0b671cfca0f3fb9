"""How each outcome ends a task. What a task raises goes into logs, events and Flower."""

from __future__ import annotations

import re
import traceback
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded
from celery.signals import before_task_publish
from kombu import Queue
from kombu.exceptions import OperationalError

from celery_sqs.exceptions import PublishRefused
from celery_sqs.poller import pause
from celery_sqs.sqs.dead_letters import Reason
from emails.outcome import DeadLetter, Done, RetryLater
from emails.status import EmailStatus
from emails.store import StoreRefused, StoreUnavailable
from tasks.task import Task, Unforeseen, task_done

SECRET = "ada" + "@example.com"  # it is split, because a traceback shows the source


def raised_by_a_task(error: Exception) -> Exception:
    class Failing(Task):
        name = "failing"

        def run(self, *args: Any, **kwargs: Any) -> Any:
            raise error from ValueError(SECRET)

    with pytest.raises(Exception) as raised:  # noqa: PT011 (any exception will do)
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


class Retried(Task):
    """Records how the task is retried."""

    name = "retried"

    def __init__(self) -> None:
        self.retries: list[dict[str, Any]] = []

    def retry(self, args: Any = None, **options: Any) -> BaseException:
        self.retries.append({"args": args, **options})
        return Retry("x")


def test_a_task_that_is_done_returns_the_outcome_s_line_and_tells_who_listens() -> None:
    heard: list[Done] = []

    def hear(outcome: Done, **_: Any) -> None:
        heard.append(outcome)

    done = Done(EmailStatus.SENT, "2 recipients rejected", "smtp")
    task_done.connect(hear)
    assert Retried().end(done, ("email-1", None)) == "Sent: 2 recipients rejected"
    assert heard == [done]


def test_a_task_logs_its_outcome_at_the_outcome_s_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for status in (EmailStatus.SENT, EmailStatus.FAILED, EmailStatus.UNKNOWN):
        Retried().end(Done(status))
    levels = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert levels == [("INFO", "Sent"), ("WARNING", "Failed"), ("ERROR", "Unknown")]


@pytest.mark.parametrize("affects_all", [True, False])
def test_a_task_that_is_to_come_later_is_retried_and_pauses_the_worker_if_others_would_be_too(
    affects_all: bool, caplog: pytest.LogCaptureFixture
) -> None:
    task = Retried()
    caplog.set_level("INFO")
    with pytest.raises(Retry):
        task.end(RetryLater(4000, "busy", affects_all=affects_all), ("email-1", 7.5), headers={"claim_tokens": "x"})
    assert task.retries == [{"args": ("email-1", 7.5), "countdown": 900, "headers": {"claim_tokens": "x"}}]
    assert (pause.left() > 0) == affects_all
    assert re.fullmatch(r"next try at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ: busy", caplog.messages[0])


def test_a_task_whose_message_is_a_dead_letter_is_rejected_with_the_reason() -> None:
    reason = Reason("EmailNotFound", "no row appeared within 60 seconds")
    with pytest.raises(Reject) as raised:
        Retried().end(DeadLetter(reason))
    assert raised.value.reason == reason


def test_publishing_a_task_declares_no_queue_unless_the_caller_asks_for_it() -> None:
    program = Celery("shop", broker="memory://", task_cls=Task, set_as_current=False)
    queue = Queue("emails")
    published: list[Any] = []

    def see(declare: Any, body: Any, **_: Any) -> None:
        published.append((declare, body[0]))

    @program.task(name="greet")
    def greet(name: str) -> None:
        """Do nothing."""

    before_task_publish.connect(see)
    greet.apply_async(("Ada",))
    greet.delay("Ada")
    greet.s("Ada").apply_async(declare=[queue])
    assert published == [([], ("Ada",)), ([], ("Ada",)), ([queue], ("Ada",))]
