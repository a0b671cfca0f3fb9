"""The emails that Flower has seen: what the events of their tasks say, one entry for each email."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

# celery.utils.saferepr writes a text like this. It escapes no character but the quote.
_TEXT = r"'((?:\\'|[^'])*)'"
_FIRST_ARGUMENT = re.compile(rf"[(\[]{_TEXT}")
_RESULT = re.compile(_TEXT)
# The repr of Reject, by which a task makes its message a dead letter.
_REJECTED = re.compile(r"reject requeue=False: Reason\(code='(\w+)', detail=['\"](.*)['\"]\)", re.DOTALL)
BY_ID = frozenset({"tasks.process_email", "tasks.load_email", "tasks.send_email"})
BRIDGE = "tasks.bridge"  # its argument is a body, and its result is the id


class Seen(NamedTuple):
    """An email, and the latest event of its tasks."""

    email_id: str
    at: float
    task: Any


def email_id_of(task: Any) -> str:
    """Return the id of the email that Flower's task is about, or "" if it names none."""
    if task.name in BY_ID:
        found = _FIRST_ARGUMENT.match(task.args or "")
    elif task.name == BRIDGE:
        found = _RESULT.fullmatch(task.result or "")
    else:
        return ""
    return found[1].replace("\\'", "'") if found else ""


def outcome_of(task: Any) -> str:
    """Return how the task ended, or "" if it did not. The exception of a retry says nothing to a person."""
    if task.result or task.state != "FAILURE":
        return task.result or ""
    rejected = _REJECTED.fullmatch(task.exception or "")
    return "dead letter: {}: {}".format(*rejected.groups()) if rejected else task.exception or ""


def newest(tasks: Iterable[Any]) -> list[Seen]:
    """Return the emails that the tasks are about, the one with the newest event first."""
    found: dict[str, Seen] = {}
    for task in tasks:
        email_id, at = email_id_of(task), task.timestamp or 0
        if email_id and (email_id not in found or at >= found[email_id].at):
            found[email_id] = Seen(email_id, at, task)
    return sorted(found.values(), key=lambda seen: seen.at, reverse=True)


def tasks_of(email_id: str, tasks: Iterable[Any]) -> list[Any]:
    """Return the email's tasks, in the order of their latest events."""
    found = [task for task in tasks if email_id_of(task) == email_id]
    return sorted(found, key=lambda task: task.timestamp or 0)
