"""What every task of ours has: it ends as its outcome says, and raises nothing that quotes an email."""

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

# Celery's own, by which it and celery_sqs tell what to do.
SIGNALS = (TaskPredicate, OperationalError, SoftTimeLimitExceeded)
FORESEEN = (StoreRefused, StoreUnavailable, MessageTooLarge, PublishRefused)
PAUSE_SECONDS = 10

# A task of this process is done, with this outcome. A receiver's exception is logged and goes no further.
task_done = Signal(name="task_done", providing_args=["outcome"])


class Unforeseen(Exception):
    """Stands for an exception that nobody foresaw, and says its type and where it was raised."""


class Task(CeleryTask):
    """Any other exception goes into logs and events, its text and traceback with it: they may quote an email."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.run(*args, **kwargs)
        except SIGNALS:
            raise
        except FORESEEN as error:
            raise error from None  # the cause is botocore's, and quotes AWS
        except Exception as error:  # noqa: BLE001 (whatever it is)
            raise Unforeseen(place(error)).with_traceback(error.__traceback__) from None

    def end(self, outcome: Outcome, retry_args: tuple[Any, ...] | None = None, **retry_options: Any) -> str:
        """Return, be retried or be rejected, as the outcome says."""
        if isinstance(outcome, DeadLetter):
            raise Reject(outcome.reason)
        get_task_logger(self.__module__).info("%s", outcome)
        if isinstance(outcome, RetryLater):
            if outcome.affects_all:  # so that others need not come to see the same
                pause.begin(PAUSE_SECONDS)
            raise self.retry(retry_args, countdown=outcome.delay, **retry_options)
        task_done.send(sender=self, outcome=outcome)
        return str(outcome)
