"""The task for what providers say of emails that they were given."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from celery.exceptions import Reject
from celery.utils.log import get_task_logger

from celery_sqs import Reason
from emails.message import InvalidMessage
from emails.store import StoreUnavailable
from emails.tracking import Tracking
from settings import get_settings
from tasks.app import app
from tasks.pipeline import wait_for_store

if TYPE_CHECKING:
    from celery.app.task import Task

logger = get_task_logger(__name__)


@cache
def tracking() -> Tracking:
    """The process's own: its boto3 client is thread-safe."""
    return Tracking.from_settings(get_settings())


@app.task(name="tasks.record_callback", bind=True, max_retries=None)
def record_callback(self: Task, body: str) -> str:
    """A body of the callbacks' queue, whatever it is: into the email's history and, by rank, its row."""
    try:
        outcome = tracking().take(body)
    except InvalidMessage as error:
        raise Reject(Reason(error.reason, error.detail)) from None
    except StoreUnavailable as error:
        later = wait_for_store(self, error)
        logger.info("waits %.1f s: %s", later.seconds, later.reason)
        # Celery would write the body, which has addresses, into the copy's repr, and so into events.
        raise self.retry(countdown=later.seconds, argsrepr=self.request.argsrepr) from None
    logger.info(outcome)
    return outcome
