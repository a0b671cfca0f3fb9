"""What a worker's log looks like: one line an event, with what it belongs to, and nothing private."""

from __future__ import annotations

import logging
import sys
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any

import structlog
from billiard.util import get_logger as get_multiprocessing_logger
from celery.exceptions import Reject
from celery.signals import celeryd_init, setup_logging, task_postrun, task_prerun

from emails.mailbox import CONTROL_CHARACTERS
from emails.unforeseen import frames
from settings import get_settings

if TYPE_CHECKING:
    from celery.app.task import Task
    from structlog.typing import EventDict, Processor

# At DEBUG the one logs every request, and with it what is in the emails; the other every task's arguments, and with
# them what is in raw bodies.
TELL_TOO_MUCH_AT_DEBUG = ("botocore", "celery.pool")
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
    handler.setFormatter(formatter(get_settings().log_format, colorize=colorize))
    logging.root.handlers = [handler]
    logging.root.setLevel(loglevel)
    multiprocessing = get_multiprocessing_logger()  # does not propagate
    multiprocessing.handlers = [handler]
    multiprocessing.setLevel(logging.ERROR)
    logging.getLogger(QUOTES_MESSAGES).addFilter(_without_message)
    logging.raiseExceptions = False  # a line that cannot be rendered would be printed with its arguments
    for name in TELL_TOO_MUCH_AT_DEBUG:
        logging.getLogger(name).setLevel(max(loglevel, logging.INFO))
    for name in TELL_WHAT_THE_OUTCOME_TELLS:
        logging.getLogger(name).setLevel(loglevel if loglevel <= logging.DEBUG else max(loglevel, logging.WARNING))


def formatter(log_format: str, *, colorize: bool) -> logging.Formatter:
    if log_format == "json":
        renderer: Processor = structlog.processors.JSONRenderer(sort_keys=True)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=colorize, pad_event_to=0)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ],
        processors=[
            _in_one_line,
            _without_texts_of_errors,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderer,
        ],
    )


@task_prerun.connect
def bind(task_id: str, task: Task, **_: Any) -> None:
    """What every line of the task has. The task itself adds the `email_id`.

    `message_id` is the SQS MessageId of the raw message with which the email's journey began; where another Celery
    program began it, that program's task id. `attempt` counts how often this step was taken up, waits included;
    `sends`, which emails/delivery.py adds once it has claimed the email, is the row's Attempts.
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


def _without_texts_of_errors(_: object, __: str, event: EventDict) -> EventDict:
    """Of an exception its types and frames: the text may quote what the code worked on."""
    error = (event.pop("exc_info", None) or (None, None, None))[1]
    if isinstance(error, BaseException) and not isinstance(error, Reject):  # a task that rejects says why
        event["exception"] = frames(error)
    return event


def _in_one_line(_: object, __: str, event: EventDict) -> EventDict:
    event["event"] = CONTROL_CHARACTERS.sub(" ", str(event["event"]))
    return event
