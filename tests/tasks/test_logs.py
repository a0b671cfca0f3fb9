"""How a log line is written, whichever code logs it."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from logging.handlers import WatchedFileHandler
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from billiard.util import get_logger as get_multiprocessing_logger
from celery.exceptions import Reject
from celery.worker.consumer.consumer import INVALID_TASK_ERROR, MESSAGE_DECODE_ERROR, UNKNOWN_FORMAT, UNKNOWN_TASK_ERROR

from emails.logs import LEAST_LEVELS
from settings import get_settings
from tasks import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Lines = Callable[[], list[dict[str, Any]]]

TELL_TOO_MUCH_AT_DEBUG = (*LEAST_LEVELS, logs.QUOTES_ARGUMENTS)
LOGGERS = [logging.root, *map(logging.getLogger, (*TELL_TOO_MUCH_AT_DEBUG, *logs.REPEAT_THE_OUTCOME))]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Restore the process's logging after each test."""
    multiprocessing = get_multiprocessing_logger()
    before = [(logger, logger.level, logger.handlers) for logger in (*LOGGERS, multiprocessing)]
    raises = logging.raiseExceptions
    yield
    for handler in logging.root.handlers:
        if isinstance(handler, WatchedFileHandler):
            handler.close()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers
    logging.raiseExceptions = raises
    logging.getLogger(logs.QUOTES_MESSAGES).removeFilter(logs._without_message)
    logs.unbind()


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Set up a JSON log at INFO, and return a function that reads it."""
    monkeypatch.setenv("EMAIL_LOG_FORMAT", "json")
    get_settings.cache_clear()
    log = tmp_path / "worker.log"
    logs.set_up(logging.INFO, str(log))
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


@contextmanager
def task_of(retries: int = 0) -> Iterator[None]:
    request = SimpleNamespace(root_id="message-1", retries=retries)
    logs.bind("task-1", SimpleNamespace(name="tasks.send_email", request=request))  # type: ignore[arg-type]  # it has what is read of a task
    yield
    logs.unbind()


def test_every_line_of_a_task_says_whose_it_is_and_no_line_after_it_does(lines: Lines) -> None:
    with task_of(retries=2):
        logging.getLogger("anybody").warning("within %s", "it")
    logging.getLogger("anybody").warning("after it")
    within, after = lines()
    assert within == within | {
        "event": "within it",
        "level": "warning",
        "logger": "anybody",
        "task": "tasks.send_email",
        "task_id": "task-1",
        "message_id": "message-1",
        "attempt": 3,
    }
    assert after.keys() == {"event", "level", "logger", "timestamp"}


def test_a_task_that_was_killed_leaves_nothing_to_the_next(lines: Lines) -> None:
    structlog.contextvars.bind_contextvars(email_id="of the killed one", sends=7)
    with task_of():
        logging.getLogger("anybody").info("within")
    assert not lines()[0].keys() & {"email_id", "sends"}


def test_the_level_of_the_command_line_is_kept(lines: Lines) -> None:
    logging.getLogger("anybody").debug("said by nobody")
    for name in logs.REPEAT_THE_OUTCOME:
        logging.getLogger(name).info("received, succeeded")
        logging.getLogger(name).error("failed")
    assert [line["event"] for line in lines()] == ["failed", "failed"]


def test_at_debug_celerys_own_lines_are_there_and_what_quotes_emails_is_not(tmp_path: Path) -> None:
    logs.set_up(logging.DEBUG, str(tmp_path / "log"))
    for name in (*logs.REPEAT_THE_OUTCOME, *TELL_TOO_MUCH_AT_DEBUG):
        logging.getLogger(name).debug("by %s", name)
    written = (tmp_path / "log").read_text()
    assert [f"by {name}" in written for name in logs.REPEAT_THE_OUTCOME] == [True, True]
    assert [f"by {name}" in written for name in TELL_TOO_MUCH_AT_DEBUG] == [False, False, False]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.WARNING])
def test_no_line_of_what_sends_requests_quotes_one_at_any_level(tmp_path: Path, level: int) -> None:
    logs.set_up(level, str(tmp_path / "log"))
    logging.getLogger("urllib3.connectionpool").debug('"GET /bucket/mail/key HTTP/1.1" 200')
    logging.getLogger("urllib3.connection").warning("Failed to parse headers (url=%s)", "/bucket/mail/key")
    assert not (tmp_path / "log").read_text()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_line_has_nothing_that_a_terminal_obeys_in_any_of_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    monkeypatch.setenv("EMAIL_LOG_FORMAT", log_format)
    get_settings.cache_clear()
    logs.set_up(logging.INFO, str(tmp_path / "log"))
    evil = "\x1b[2J\x9b1m\u202e\x7f\ud800"
    structlog.contextvars.bind_contextvars(message_id=evil)
    logging.getLogger("anybody").info("said %s by http://user:pa/ss@host", evil)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.isprintable()
    assert line.count("[2J") == 2
    logging.getLogger("anybody").info("at http://user:password@host/a")
    assert "http://…@host/a" in json.loads(json.dumps((tmp_path / "log").read_text())).replace("\\u2026", "…")


def test_an_exception_is_its_frames_and_types_without_a_text(lines: Lines) -> None:
    def private() -> None:
        raise KeyError("the secret") from ValueError("the secret")

    try:
        private()
    except KeyError:
        logging.getLogger("anybody").exception("it failed")
    (line,) = lines()
    assert "the secret" not in line["exception"].replace('("the secret")', "")  # the traceback quotes this source line
    assert [text for text in line["exception"].splitlines() if text.endswith("Error")] == ["ValueError", "KeyError"]
    assert "in private" in line["exception"]


def test_a_reject_has_no_traceback(lines: Lines) -> None:
    def reject() -> None:
        raise Reject("unwanted")

    try:
        reject()
    except Reject:
        logging.getLogger("celery.app.trace").warning("rejected: unwanted", exc_info=True)
    assert lines()[0].keys() == {"event", "level", "logger", "timestamp"}


SECRET = "the secret"
COMPLAINTS = {
    "Received unregistered task of type no.such.task.": (UNKNOWN_TASK_ERROR, ("no.such.task", *[SECRET] * 3)),
    "Received invalid task message: no arguments": (INVALID_TASK_ERROR, ("no arguments", SECRET)),
    "Received and deleted unknown message.  Wrong destination?!?": (UNKNOWN_FORMAT, (SECRET,)),
    "Can't decode message body: 'refused'": (MESSAGE_DECODE_ERROR, ("refused", *[SECRET] * 4)),
}


@pytest.mark.parametrize("said", COMPLAINTS)
def test_celerys_complaint_about_a_message_does_not_quote_it(lines: Lines, said: str) -> None:
    template, arguments = COMPLAINTS[said]
    logging.getLogger(logs.QUOTES_MESSAGES).error(template, *arguments)
    (line,) = lines()
    assert line["event"] == said
    assert SECRET not in str(line)


def test_what_cannot_be_rendered_is_not_printed_with_its_arguments(
    lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("anybody").error("%d", SECRET)
    assert (lines(), capsys.readouterr().err) == ([], "")


def test_for_a_person_a_line_is_plain_and_stays_one_line(tmp_path: Path) -> None:
    logs.set_up(logging.INFO, str(tmp_path / "log"))
    with task_of():
        logging.getLogger("tasks.pipeline").info("already Done\n2026-01-31 Sent")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "already Done 2026-01-31 Sent" in line
    assert line.endswith("[tasks.pipeline] attempt=1 message_id=message-1 task=tasks.send_email task_id=task-1")


@pytest.mark.parametrize(("log_format", "quiet"), [("json", True), ("console", False)])
def test_celerys_banner_is_for_a_person(monkeypatch: pytest.MonkeyPatch, log_format: str, quiet: bool) -> None:
    monkeypatch.setenv("EMAIL_LOG_FORMAT", log_format)
    get_settings.cache_clear()
    worker = SimpleNamespace(quiet=False)
    logs.hide_banner(worker)
    assert worker.quiet is quiet
