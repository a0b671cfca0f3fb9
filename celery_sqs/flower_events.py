"""Which events a monitor can hold: whoever may send to a control queue can send it any JSON as an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_NAME = 1000  # characters of what is a key or a link in a monitor: a worker's name, an id
MAX_NUMBER = 1e15  # counters and seconds are below, and floats above lose whole numbers
LATEST = 1e11  # epoch seconds, in the year 5138: datetime can hold it
HOURS = 24  # of an offset from UTC
LOAD_AVERAGES = 3


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_number(value: object) -> bool:
    """Not a boolean, NaN or infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER


def _is_moment(value: Any) -> bool:
    return _is_number(value) and 0 <= value < LATEST


def _is_duration(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_offset(value: Any) -> bool:
    return _is_number(value) and abs(value) <= HOURS


def _are_load_averages(value: object) -> bool:
    return isinstance(value, list) and len(value) <= LOAD_AVERAGES and all(map(_is_number, value))


# Celery's user guide, "Monitoring and Management Guide", Event Reference; what celery.events.state keeps of them.
# Without the clock: it is Lamport's, so one forged event would set everybody's forward, and a receiver gives an event
# that has none its own.
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
    """What a monitor needs of the event, or None if the event is none that Celery would send.

    Fields that are not Celery's are left out, since celery.events.state sets each as an attribute of a worker or task.
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
