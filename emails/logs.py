"""How log lines are written: an event is one line, says what it belongs to, and contains nothing private."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from emails.printable import printable

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

# At DEBUG, botocore logs every request, and with it the contents of emails. botocore sends requests with urllib3, which
# logs their paths, for every request at DEBUG and in its warnings too. The path of a request to S3 has a file's key.
LEAST_LEVELS = {"botocore": logging.INFO, "urllib3": logging.ERROR}


def write_by(handler: logging.Handler, level: int, formatter: logging.Formatter) -> None:
    """Make this the process's only log handler, so that every line is rendered alike, including those of libraries."""
    handler.setFormatter(formatter)
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    for name, least in LEAST_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, least))
    logging.raiseExceptions = False  # or a line that cannot be rendered would be printed with its arguments


def formatter(
    log_format: str, *, colorize: bool = False, explained: tuple[type[BaseException], ...] = ()
) -> logging.Formatter:
    """Return a formatter for a person (console) or a machine (json). `explained` exceptions need no traceback."""

    def without_texts_of_errors(_: object, __: str, event: EventDict) -> EventDict:
        """Keep only an exception's types and frames, because its text may quote what the code worked on."""
        error: Any = (event.pop("exc_info", None) or (None, None, None))[1]
        if isinstance(error, BaseException) and not isinstance(error, explained):
            event["exception"] = frames(error)
        return event

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
            _printable,
            without_texts_of_errors,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderer,
        ],
    )


# The text of an unexpected exception may quote an email, so only what these functions return may be logged.


def place(error: BaseException) -> str:
    """Return the exception's type and where it was raised, like `KeyError in send (providers/smtp.py:41)`."""
    name = type(error).__name__
    if not (raised := traceback.extract_tb(error.__traceback__)):
        return name
    file = Path(raised[-1].filename)
    return f"{name} in {raised[-1].name} ({file.parent.name}/{file.name}:{raised[-1].lineno})"


def frames(error: BaseException) -> str:
    """Return a traceback without the exceptions' texts. The first cause comes first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [frames(before), ""] if before else []
    lines += ["Traceback (most recent call last):", *traceback.format_tb(error.__traceback__), type(error).__name__]
    return "\n".join(line.rstrip("\n") for line in lines)


def _printable(_: object, __: str, event: EventDict) -> EventDict:
    """Make every event one line: any sender to a queue can write ids, and libraries quote what they received."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}
