"""Replacements in Celery and kombu that remote control needs on SQS."""

from __future__ import annotations

import threading
from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.bootsteps import Step
from celery.worker.control import Panel, nok, ok
from kombu.log import get_logger
from kombu.pidbox import Mailbox
from kombu.utils.uuid import uuid

from celery_sqs.per_process import one_per_process
from celery_sqs.poller import pollers_of_process

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)

CANNOT_RESIZE = "this worker's pool cannot grow or shrink: restart the worker with another --concurrency"
CANNOT_STOP = "this worker's pool cannot stop a running task: set time-outs on what the task calls"


def keep_reply_queues() -> None:
    """Let each thread use one queue for the replies to all its calls.

    The name that kombu gives the queue contains the id of an object that exists for one call only
    (celery/celery#8348), so each call would create and delete a queue.
    """
    Mailbox.oid = property(_oid)


def _oid(_: Mailbox) -> str:
    caller = one_per_process(_oid, threading.local)
    if not hasattr(caller, "oid"):
        caller.oid = uuid()
    oid: str = caller.oid
    return oid


class Receiving(Step):
    """Adds each queue's last receive to `inspect stats`, and removes credentials from what it shows of the broker."""

    def info(self, consumer: Any) -> dict[str, Any]:
        broker = consumer.connection.info()
        options = {name: value for name, value in broker["transport_options"].items() if name != "predefined_queues"}
        shown = ("hostname", "port", "transport")
        return {
            "broker": {name: broker[name] for name in shown} | {"transport_options": options},
            "receiving": {poller.name: poller.figures() for poller in pollers_of_process().receiving()},
        }


def show_receiving(consumer: Any) -> None:
    """Add `Receiving` to the consumer's `inspect stats`, and log a warning if remote control is off."""
    consumer.steps.append(Receiving(consumer))
    if not consumer.connection.supports_exchange_type("fanout"):
        logger.warning("events and remote control are off: the transport option control_queue_prefix is empty")


class TaskEvents:
    """Switches a worker's task events off while nobody watches, because three events per task cost CPU.

    It uses Celery's own switch, the dispatcher's groups. So it must remember separately whether an operator has enabled
    or disabled the events.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._wanted = True
        self._watched = True

    def on_watched(self, watched: bool) -> None:
        """Note whether anybody watches, and switch the events on or off."""
        self._watched = watched
        self._turn()

    def want(self, wanted: bool) -> dict[str, str]:
        """Carry out `enable_events` or `disable_events`, and return the reply."""
        changed, self._wanted = self._wanted != wanted, wanted
        self._turn()
        return ok(f"task events {'' if changed else 'already '}{'enabled' if wanted else 'disabled'}")

    def _turn(self) -> None:
        if dispatcher := self._consumer.event_dispatcher:
            dispatcher.groups = set() if self._wanted and self._watched else {"worker"}


_spared: WeakKeyDictionary[Any, TaskEvents] = WeakKeyDictionary()


def spare_events(consumer: Any) -> None:
    """Switch the task events of the consumer's worker off while nobody watches."""
    monitoring = consumer.connection.default_channel.monitoring
    dispatcher = consumer.event_dispatcher  # None if the worker sends no events at all
    if monitoring and dispatcher and not dispatcher.groups:  # if it has groups, an option has turned task events off
        _spared[consumer] = events = TaskEvents(consumer)
        monitoring.events.on_watched = events.on_watched


def answer_commands() -> None:
    """Give a clear reply to commands that a worker's pool cannot carry out.

    Celery would raise an error, or reply that it was done.
    """
    for name in ("pool_grow", "pool_shrink", "autoscale"):
        Panel.data[name] = _unless_of_threads(Panel.data[name], CANNOT_RESIZE)
    for name in ("time_limit", "terminate"):
        Panel.data[name] = _unless_of_threads(Panel.data[name], CANNOT_STOP)
    Panel.data["revoke"] = _without_terminate(Panel.data["revoke"])
    Panel.data["enable_events"] = _task_events(Panel.data["enable_events"], wanted=True)
    Panel.data["disable_events"] = _task_events(Panel.data["disable_events"], wanted=False)


def _cannot_grow(state: Any) -> bool:
    return not hasattr(state.consumer.pool, "grow")


def _unless_of_threads(command: Callable[..., Any], sentence: str) -> Callable[..., Any]:
    @wraps(command)
    def answer(state: Any, *args: Any, **options: Any) -> Any:
        return nok(sentence) if _cannot_grow(state) else command(state, *args, **options)

    return answer


def _without_terminate(revoke: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(revoke)
    def answer(state: Any, task_id: Any, *, terminate: bool = False, **options: Any) -> Any:
        if terminate and _cannot_grow(state):
            return nok(CANNOT_STOP)
        return revoke(state, task_id, terminate=terminate, **options)

    return answer


def _task_events(command: Callable[..., Any], *, wanted: bool) -> Callable[..., Any]:
    @wraps(command)
    def answer(state: Any, **options: Any) -> Any:
        events = _spared.get(state.consumer)
        return events.want(wanted) if events else command(state, **options)

    return answer
