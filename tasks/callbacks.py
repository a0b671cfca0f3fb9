"""The task that records what providers report about emails after accepting them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from emails import steps
from emails.steps import Carried
from emails.tracking import Tracking
from settings import get_settings
from tasks.app import app

if TYPE_CHECKING:
    from tasks.task import Task


@cache
def get_tracking() -> Tracking:
    """Return this process's Tracking. Its boto3 client is thread-safe, so all threads share it."""
    return Tracking.from_settings(get_settings())


@app.task(name="tasks.record_callback", bind=True, max_retries=None)
def record_callback(self: Task, body: str) -> str:
    """Record a message of the callbacks queue in the email's history, and in its row if its status ranks higher."""
    outcome = steps.record_callback(get_tracking(), body, Carried(self.request.retries + 1))
    # Otherwise Celery would write the body, which has addresses, into the copy's repr and so into events.
    return self.end(outcome, argsrepr=self.request.argsrepr)
