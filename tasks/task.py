"""The base class of our tasks. A task ends as its outcome says, and raises nothing that quotes an email."""

from __future__ import annotations

from typing import Any

from celery.app.task import Task as CeleryTask
from celery.exceptions import Reject, SoftTimeLimitExceeded, TaskPredicate
from celery.utils.dispatch import Signal
from celery.utils.log import get_task_logger
from kombu.exceptions import OperationalError

from celery_sqs.exceptions import MessageTooLarge, PublishRefused
from celery_sqs.poller import pause
from emails.logs import place
from emails.outcome import DeadLetter, Outcome, RetryLater
from emails.store import StoreRefused, StoreUnavailable

# Celery's own exceptions, which tell Celery and celery_sqs what to do.
SIGNALS = (TaskPredicate, OperationalError, SoftTimeLimitExceeded)
FORESEEN = (StoreRefused, StoreUnavailable, MessageTooLarge, PublishRefused)
PAUSE_SECONDS = 10

# Sent when a task of this process is done, with its outcome. If a receiver raises, the exception is only logged.
task_done = Signal(name="task_done", providing_args=["outcome"])


class Unforeseen(Exception):
    """Replaces an unexpected exception, and says its type and where it was raised."""


class Task(CeleryTask):
    """The base class of our tasks, which replaces unexpected exceptions by Unforeseen.

    Celery writes an exception's text and traceback into logs and events, and they may quote an email.
    """

    Request = "tasks.request:Request"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.run(*args, **kwargs)
        except SIGNALS:
            raise
        except FORESEEN as error:
            raise error from None  # its cause is botocore's, which quotes AWS
        except Exception as error:  # noqa: BLE001 (any exception may quote an email)
            raise Unforeseen(place(error)).with_traceback(error.__traceback__) from None

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Publish a message without declaring its queue first, because the transport looks the queue up in any case.

        To find out whether a queue is declared, kombu binds copies of it and of its exchange for every message.
        """
        return super().apply_async(*args, **{"declare": [], **options})

    def end(self, outcome: Outcome, retry_args: tuple[Any, ...] | None = None, **retry_options: Any) -> str:
        """Return the outcome's text, or raise Retry or Reject, as the outcome requires."""
        if isinstance(outcome, DeadLetter):
            raise Reject(outcome.reason)
        get_task_logger(self.__module__).log(outcome.level, "%s", outcome)
        if isinstance(outcome, RetryLater):
            if outcome.affects_all:  # so that other messages do not end in the same way
                pause.begin(PAUSE_SECONDS)
            raise self.retry(retry_args, countdown=outcome.delay, **retry_options)
        task_done.send(sender=self, outcome=outcome)
        return str(outcome)
