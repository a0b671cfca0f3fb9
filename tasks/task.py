"""What every task of ours has: it raises nothing that quotes an email."""

from __future__ import annotations

from typing import Any

from celery.app.task import Task as CeleryTask
from celery.exceptions import SoftTimeLimitExceeded, TaskPredicate
from kombu.exceptions import OperationalError

from celery_sqs.exceptions import MessageTooLarge, PublishRefused
from emails.store import StoreRefused, StoreUnavailable
from emails.unforeseen import Unforeseen, place

# Celery's own, by which it and celery_sqs tell what to do.
SIGNALS = (TaskPredicate, OperationalError, SoftTimeLimitExceeded)
FORESEEN = (StoreRefused, StoreUnavailable, MessageTooLarge, PublishRefused)


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
