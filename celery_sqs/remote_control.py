"""What remote control needs on SQS beyond Celery's and kombu's own."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from celery.bootsteps import Step
from celery.signals import worker_ready
from celery.worker.control import Panel, nok
from kombu.log import get_logger
from kombu.pidbox import Mailbox
from kombu.utils.uuid import uuid

from celery_sqs.poller import receiving

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)

CANNOT_RESIZE = "this worker's pool cannot grow or shrink: restart the worker with another --concurrency"
CANNOT_STOP = "this worker's pool cannot stop what runs: give what the task calls time-outs of its own"

_caller = threading.local()


def keep_reply_queues() -> None:
    """Give every thread one queue for the replies to all its calls.

    kombu's name for it has the id of an object that lives for one call (celery/celery#8348), so that each call would
    make a queue and delete it.
    """
    Mailbox.oid = property(_oid)


def _oid(_: Mailbox) -> str:
    if getattr(_caller, "pid", None) != os.getpid():
        _caller.pid, _caller.oid = os.getpid(), uuid()
    oid: str = _caller.oid
    return oid


class Receiving(Step):
    """Adds to `inspect stats`: each queue's last receive, and no credentials with the broker."""

    def info(self, consumer: Any) -> dict[str, Any]:
        broker = consumer.connection.info()
        options = {name: value for name, value in broker["transport_options"].items() if name != "predefined_queues"}
        shown = ("hostname", "port", "transport")
        return {
            "broker": {name: broker[name] for name in shown} | {"transport_options": options},
            "receiving": {
                poller.name: {"last_receive_at": poller.last_receive_at, "parked": poller.parked}
                for poller in list(receiving)
            },
        }


@worker_ready.connect
def answer_clearly(sender: Any, **_: Any) -> None:
    """The signal's sender is the worker's consumer."""
    sender.steps.append(Receiving(sender))
    if not hasattr(sender.pool, "grow"):
        for command in ("pool_grow", "pool_shrink", "autoscale"):
            Panel.data[command] = _refusal(CANNOT_RESIZE)
        for command in ("time_limit", "terminate"):
            Panel.data[command] = _refusal(CANNOT_STOP)
        Panel.data["revoke"] = _without_terminate(Panel.data["revoke"])
    if not sender.connection.supports_exchange_type("fanout"):
        logger.warning("events and remote control are off: the transport option control_queue_prefix is empty")


@worker_ready.connect
def spare_events(sender: Any, **_: Any) -> None:
    """Let the worker make no events of tasks while nobody watches: three a task cost CPU."""
    monitoring = sender.connection.default_channel.monitoring
    if monitoring is None or sender.event_dispatcher.groups:  # off, or those of tasks are
        return

    def on_watched(watched: bool) -> None:
        if sender.event_dispatcher:
            sender.event_dispatcher.groups = set() if watched else {"worker"}

    monitoring.events.on_watched = on_watched


def _refusal(sentence: str) -> Callable[..., dict[str, str]]:
    return lambda *_, **__: nok(sentence)


def _without_terminate(revoke: Callable[..., Any]) -> Callable[..., Any]:
    def command(state: Any, task_id: Any, *, terminate: bool = False, **options: Any) -> Any:
        if terminate:
            return nok(CANNOT_STOP)
        return revoke(state, task_id, **options)

    return command
