"""Checks events before a monitor sees them, because anybody who may send to a control queue can send any JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_NAME = 1000  # characters in a worker's name or an id, which monitors use as keys and in links
MAX_NUMBER = 1e15  # counters and seconds are smaller, and larger floats cannot represent every whole number
LATEST = 1e11  # epoch seconds in the year 5138, which datetime can still represent
HOURS = 24  # the largest offset from UTC
LOAD_AVERAGES = 3


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_number(value: object) -> bool:
    """Whether the value is a number, and not a boolean, NaN or infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _is_moment(value: Any) -> bool:
    return _is_number(value) and 0 <= value < LATEST


def _is_duration(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_offset(value: Any) -> bool:
    return _is_number(value) and abs(value) <= HOURS


def _are_load_averages(value: object) -> bool:
    return isinstance(value, list) and len(value) <= LOAD_AVERAGES and all(map(_is_number, value))


# These are the fields that celery.events.state keeps, of those in Celery's user guide ("Monitoring and Management
# Guide", Event Reference). The clock is left out. It is a Lamport clock, so one forged event would set every process's
# clock forward. A receiver adds its own clock to an event without one.
FIELDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("type", "hostname", "uuid", "name"), _is_name),
    **dict.fromkeys(("args", "kwargs", "result", "exception", "traceback", "eta", "expires"), _is_text),
    **dict.fromkeys(("root_id", "parent_id", "queue", "exchange", "routing_key"), _is_text),
    **dict.fromkeys(("sw_ident", "sw_ver", "sw_sys"), _is_text),
    **dict.fromkeys(("pid", "active", "processed", "retries", "freq", "runtime"), _is_duration),
    "timestamp": _is_moment,
    "utcoffset": _is_offset,
    "loadavg": _are_load_averages,
}


def known_event(event: object) -> dict[str, Any] | None:
    """Return the event with the fields that a monitor needs, or None if Celery would not send such an event.

    Unknown fields are removed, because celery.events.state sets every field as an attribute of a worker or a task.
    """
    if not isinstance(event, dict):
        return None
    known = {name: event[name] for name in FIELDS if event.get(name) is not None}
    if not all(FIELDS[name](value) for name, value in known.items()):
        return None
    required = {"type", "hostname", "timestamp"}
    if str(known.get("type")).startswith("task-"):
        required.add("uuid")
    return known if required <= known.keys() else None
