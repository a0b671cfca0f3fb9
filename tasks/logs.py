"""What is in a worker's log: of Celery's lines those that tell something, each with the task it belongs to."""

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

# It logs every task's arguments at DEBUG, and with them what is in raw bodies.
QUOTES_ARGUMENTS = "celery.pool"
# "Task … received", "… succeeded", "… retry": the outcome's own line says more. At DEBUG they are there.
TELL_WHAT_THE_OUTCOME_TELLS = ("celery.app.trace", "celery.worker.strategy")
# It quotes the body and the headers of what it cannot use.
QUOTES_MESSAGES = "celery.worker.consumer.consumer"


@celeryd_init.connect
def spare_the_banner(instance: Any, **_: Any) -> None:
    """Celery prints it for a person."""
    instance.quiet = instance.quiet or get_settings().log_format == "json"


@setup_logging.connect
def set_up(loglevel: int, logfile: str | None = None, colorize: bool = False, **_: Any) -> None:
    """Instead of Celery's own handlers. Every line, Celery's and libraries' too, is rendered alike.

    Prefork's children are forks: they write by the handler that is here.
    """
    handler = WatchedFileHandler(logfile, encoding="utf-8") if logfile else logging.StreamHandler(sys.__stderr__)
    # A task that rejects says why.
    write_by(handler, loglevel, formatter(get_settings().log_format, colorize=colorize, explained=(Reject,)))
    multiprocessing = get_multiprocessing_logger()  # does not propagate
    multiprocessing.handlers = [handler]
    multiprocessing.setLevel(logging.ERROR)
    logging.getLogger(QUOTES_MESSAGES).addFilter(_without_message)
    logging.getLogger(QUOTES_ARGUMENTS).setLevel(max(loglevel, logging.INFO))
    for name in TELL_WHAT_THE_OUTCOME_TELLS:
        logging.getLogger(name).setLevel(loglevel if loglevel <= logging.DEBUG else max(loglevel, logging.WARNING))


@task_prerun.connect
def bind(task_id: str, task: Task, **_: Any) -> None:
    """What every line of the task has. The task itself adds the `email_id`.

    `message_id` is the SQS MessageId of the raw message with which the email's journey began; where another Celery
    program began it, that program's task id. `attempt` counts how often this step was taken up, waits included;
    `sends`, which emails/sender.py adds once it has claimed the email, is the row's Attempts.
    """
    structlog.contextvars.clear_contextvars()  # a thread's or greenlet's last task may have been killed
    structlog.contextvars.bind_contextvars(
        task=task.name, task_id=task_id, message_id=task.request.root_id, attempt=task.request.retries + 1
    )


@task_postrun.connect
def unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()


def _without_message(record: logging.LogRecord) -> bool:
    """Of Celery's complaint about a message, what is wrong: not the body and headers that follow."""
    if record.levelno >= logging.WARNING and isinstance(record.args, tuple):
        record.msg = record.msg.partition("\n")[0].partition(" [")[0]
        record.args = record.args[: record.msg.count("%")]
    return True
