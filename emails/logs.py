"""How a line of a log is written: in one line, with what it belongs to, and nothing private."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import structlog

from emails.mailbox import CONTROL_CHARACTERS
from emails.unforeseen import frames

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

# It logs every request at DEBUG, and with it what is in the emails.
QUOTES_EMAILS = "botocore"


def write_by(handler: logging.Handler, level: int, formatter: logging.Formatter) -> None:
    """Let this handler alone write what this process logs: every line, libraries' too, is rendered alike."""
    handler.setFormatter(formatter)
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    logging.getLogger(QUOTES_EMAILS).setLevel(max(level, logging.INFO))
    logging.raiseExceptions = False  # a line that cannot be rendered would be printed with its arguments


def formatter(
    log_format: str, *, colorize: bool = False, explained: tuple[type[BaseException], ...] = ()
) -> logging.Formatter:
    """Render lines for a person (console) or a machine (json). `explained` exceptions need no traceback."""

    def without_texts_of_errors(_: object, __: str, event: EventDict) -> EventDict:
        """Of an exception its types and frames: the text may quote what the code worked on."""
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
            _in_one_line,
            without_texts_of_errors,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderer,
        ],
    )


def _in_one_line(_: object, __: str, event: EventDict) -> EventDict:
    event["event"] = CONTROL_CHARACTERS.sub(" ", str(event["event"]))
    return event
