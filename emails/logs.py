"""How a line of a log is written: in one line, with what it belongs to, and nothing private."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from emails.printable import printable

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

# At DEBUG botocore logs every request, and with it what is in the emails. urllib3, by which botocore sends them, logs
# their paths, of which one to S3 has the key of a file: at DEBUG those of all requests, and in its warnings too.
LEAST_LEVELS = {"botocore": logging.INFO, "urllib3": logging.ERROR}


def write_by(handler: logging.Handler, level: int, formatter: logging.Formatter) -> None:
    """Let this handler alone write what this process logs: every line, libraries' too, is rendered alike."""
    handler.setFormatter(formatter)
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    for name, least in LEAST_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, least))
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
            _printable,
            without_texts_of_errors,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            renderer,
        ],
    )


# Of an exception that nobody foresaw only these may be said: its text may quote an email.


def place(error: BaseException) -> str:
    """Like `KeyError in send (providers/smtp.py:41)`."""
    name = type(error).__name__
    if not (raised := traceback.extract_tb(error.__traceback__)):
        return name
    file = Path(raised[-1].filename)
    return f"{name} in {raised[-1].name} ({file.parent.name}/{file.name}:{raised[-1].lineno})"


def frames(error: BaseException) -> str:
    """A traceback without the exceptions' texts, the first cause first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [frames(before), ""] if before else []
    lines += ["Traceback (most recent call last):", *traceback.format_tb(error.__traceback__), type(error).__name__]
    return "\n".join(line.rstrip("\n") for line in lines)


def _printable(_: object, __: str, event: EventDict) -> EventDict:
    """Let every line be one line: ids come from whoever may send to a queue, and libraries quote what they received."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}
