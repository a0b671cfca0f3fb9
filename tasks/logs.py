"""What a worker logs: Celery's lines only if they are useful, and every line with the task that it belongs to."""

from __future__ import annotations

import logging
import sys
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any

import structlog
from billiard.util import get_logger as get_multiprocessing_logger
from celery.exceptions import Reject
from celery.signals import celeryd_init, setup_logging, task_postrun, task_prerun

from emails.logs import formatter, write_by
from settings import get_settings

if TYPE_CHECKING:
    from celery.app.task import Task

# At DEBUG, this logger writes every task's arguments, and with them the bodies of raw messages.
QUOTES_ARGUMENTS = "celery.pool"
# These log "Task … received", "… succeeded" and "… retry". The outcome's own line says more, so these need DEBUG.
REPEAT_THE_OUTCOME = ("celery.app.trace", "celery.worker.strategy")
# This logger quotes the body and the headers of messages that it cannot use.
QUOTES_MESSAGES = "celery.worker.consumer.consumer"


@celeryd_init.connect
def hide_banner(instance: Any, **_: Any) -> None:
    """Do not print Celery's banner, which is for people, if the log is JSON."""
    instance.quiet = instance.quiet or get_settings().log_format == "json"


@setup_logging.connect
def set_up(loglevel: int, logfile: str | None = None, colorize: bool = False, **_: Any) -> None:
    """Replace Celery's own handlers, so that every line is rendered alike, including those of Celery and libraries.

    Prefork's child processes are forks, so they write with the handler that is set up here.
    """
    handler = WatchedFileHandler(logfile, encoding="utf-8") if logfile else logging.StreamHandler(sys.__stderr__)
    # A Reject needs no traceback, because the task has said why it rejects the message.
    write_by(handler, loglevel, formatter(get_settings().log_format, colorize=colorize, explained=(Reject,)))
    multiprocessing = get_multiprocessing_logger()  # it does not propagate
    multiprocessing.handlers = [handler]
    multiprocessing.setLevel(logging.ERROR)
    logging.getLogger(QUOTES_MESSAGES).addFilter(_without_message)
    logging.getLogger(QUOTES_ARGUMENTS).setLevel(max(loglevel, logging.INFO))
    for name in REPEAT_THE_OUTCOME:
        logging.getLogger(name).setLevel(loglevel if loglevel <= logging.DEBUG else max(loglevel, logging.WARNING))


@task_prerun.connect
def bind(task_id: str, task: Task, **_: Any) -> None:
    """Add these fields to every line of the task. The task itself adds the `email_id`.

    `message_id` is the SQS MessageId of the raw message with which the email's journey began. If another Celery program
    began it, this is that program's task id. `attempt` counts how often this step was tried, including waits. `sends`
    is the row's Attempts, which emails/sender.py adds once it has claimed the email.
    """
    structlog.contextvars.clear_contextvars()  # the last task of this thread or greenlet may have been killed
    structlog.contextvars.bind_contextvars(
        task=task.name, task_id=task_id, message_id=task.request.root_id, attempt=task.request.retries + 1
    )


@task_postrun.connect
def unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()


def _without_message(record: logging.LogRecord) -> bool:
    """Shorten Celery's warning about a message to what is wrong, without the body and the headers that follow."""
    if record.levelno >= logging.WARNING and isinstance(record.args, tuple):
        record.msg = record.msg.partition("\n")[0].partition(" [")[0]
        record.args = record.args[: record.msg.count("%")]
    return True
