"""The task that beat runs to do what `email-service reap` does."""

from __future__ import annotations

from celery.utils.log import get_task_logger

from celery_sqs.sqs import leased_queues
from settings import get_settings
from settings.aws import client
from tasks.app import app

logger = get_task_logger(__name__)


@app.task(name="tasks.reap")
def reap() -> None:
    """Delete the control queues that crashed processes left behind."""
    settings = get_settings()
    for name in leased_queues.reap(client("sqs", settings), settings.control_queue_prefix):
        logger.info("deleted %s, which had been left behind", name)
