"""Sends Celery's events to the monitors that watch, from a separate thread, so that they never slow or stop work."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from celery.events.event import EVENT_EXCHANGE_NAME
from kombu.log import get_logger
from kombu.utils.uuid import uuid

from celery_sqs.log import OnceAMinute
from celery_sqs.per_process import at_exit
from celery_sqs.sqs.batches import pack
from celery_sqs.sqs.errors import NO_SUCH_QUEUE, code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from celery_sqs.control_queues import ControlQueues
    from celery_sqs.sqs.queue import Queue

complain = OnceAMinute(get_logger(__name__))

WINDOW_SECONDS = 1.0
CAPACITY = 5000  # events; if there are more, the oldest are dropped

# SQS bills each 64 KB of a request as one request (Amazon SQS pricing, "Size of Payloads").
BILLED_BYTES = 65_536

# How long the list of the monitors' queues is used before ListQueues is asked again. A remote command makes us ask at
# once, because a monitor sends one when it starts (`EventReceiver.wakeup_workers`).
WATCHERS_SECONDS = 30.0

# How long a monitor's queue that failed is skipped. The same holds for ListQueues.
REST_SECONDS = 30.0

# SQS does not know a queue if it was deleted, or if it was created within the last second (CreateQueue in the API
# Reference). ListQueues may still list a deleted queue.
REST_IF_UNKNOWN_SECONDS = 5.0

LISTING = ""  # the key for ListQueues among keys that are queue URLs

# This event is sent at once. If it came late from one worker, it would overwrite another worker's "task-succeeded" in
# the monitor's memory.
URGENT = "task-retried"

EXIT_FLUSH_SECONDS = 3.0


class EventPublisher:
    """Collects events for `window` seconds, and sends them together to every queue of the events exchange.

    A queue that fails is skipped for a while, without affecting the other queues. If `types` is not empty, only events
    of those types are sent.
    """

    def __init__(self, queues: ControlQueues, window: float, types: Collection[str]) -> None:
        self._queues = queues
        self._window = window
        self._types = frozenset(types)
        self._changed = threading.Condition()
        self._events: deque[dict[str, Any]] = deque()
        self._headers: dict[str, Any] = {}
        self._urgent = False
        self._sending = False
        self._watchers: list[Queue] = []
        self._look_again_at = 0.0
        self._resting_until: dict[str, float] = {}
        self.on_watched: Callable[[bool], object] = bool  # called with whether anybody watches, after each look-up
        self._thread: threading.Thread | None = None
        at_exit(self.exit)

    def add(self, message: dict[str, Any]) -> None:
        """Add a message that is published to the events exchange. Its body is one event or a list of events."""
        found = json.loads(message["body"])
        events = [event for event in (found if isinstance(found, list) else [found]) if self._is_wanted(event)]
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            self._headers = message["headers"]
            self._events.extend(events)
            if (over := len(self._events) - CAPACITY) > 0:
                complain("there are more events than SQS accepts: dropping the oldest")
                for _ in range(over):
                    self._events.popleft()
            self._urgent = self._urgent or any(event["type"] == URGENT for event in events)
            self._changed.notify_all()

    def look_again(self) -> None:
        """Look for monitors again before the next events are sent, because somebody may have begun to watch."""
        self._look_again_at = 0.0

    def exit(self) -> None:
        """Send the events that are left, and wait for up to 3 seconds until they are sent."""
        with self._changed:
            self._urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not (self._events or self._sending), EXIT_FLUSH_SECONDS)

    def _is_wanted(self, event: dict[str, Any]) -> bool:
        return not self._types or event["type"] in self._types

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events)
                self._changed.wait_for(lambda: self._urgent, self._window)
                events, self._events = list(self._events), deque()
                self._urgent, self._sending = False, True
            try:
                self._send(events)
            except Exception as error:  # noqa: BLE001 (a failure of monitoring must never stop work)
                complain("cannot send events: %r", error)
            with self._changed:
                self._sending = False
                self._changed.notify_all()

    def _send(self, events: list[dict[str, Any]]) -> None:
        self._look_for_watchers()
        watchers = [watcher for watcher in self._watchers if not self._is_resting(watcher.url)]
        if not watchers:
            return
        bodies = [{"MessageBody": body} for body in merged(events, self._headers)]
        for watcher in watchers:
            self._send_to(watcher, bodies)

    def _look_for_watchers(self) -> None:
        now = time.monotonic()
        if now < self._look_again_at or self._is_resting(LISTING):
            return
        self._look_again_at = now + WATCHERS_SECONDS
        self._resting_until = {what: until for what, until in self._resting_until.items() if until > now}
        try:
            self._watchers = self._queues.bound_to(EVENT_EXCHANGE_NAME)
        except Exception as error:  # noqa: BLE001 (the known monitors still get their events)
            self._rest(LISTING)
            complain("cannot check whether anybody watches events; trying again in %d s: %r", int(REST_SECONDS), error)
            return
        self.on_watched(bool(self._watchers))

    def _send_to(self, watcher: Queue, bodies: list[dict[str, Any]]) -> None:
        try:
            for batch in pack(bodies, lambda entry: len(entry["MessageBody"])):
                codes = watcher.send_batch(batch)
                if failed := [code for code in codes if code]:
                    text = "%s did not accept %d of %d messages: %s"
                    complain(text, watcher.name, len(failed), len(batch), failed[0])
                if all(codes):
                    self._rest(watcher.url)
                    return
        except Exception as error:  # noqa: BLE001 (the other monitors still get their events)
            if code_of(error) in NO_SUCH_QUEUE:
                self._rest(watcher.url, REST_IF_UNKNOWN_SECONDS)
                self._watchers.remove(watcher)
                self.look_again()
            else:
                self._rest(watcher.url)
                text = "cannot send events to %s; sending none for %d s: %r"
                complain(text, watcher.name, int(REST_SECONDS), error)

    def _is_resting(self, what: str) -> bool:
        return time.monotonic() < self._resting_until.get(what, 0.0)

    def _rest(self, what: str, seconds: float = REST_SECONDS) -> None:
        self._resting_until[what] = time.monotonic() + seconds


def merged(events: list[dict[str, Any]], headers: dict[str, Any]) -> Iterator[str]:
    """Yield kombu messages that contain the events in order, each small enough to be billed as one request."""
    # The events become a string within the message's JSON, where their quotes are escaped. The second `dumps` counts
    # that.
    most_bytes = BILLED_BYTES - len(_message([], headers))
    batches = pack(map(json.dumps, events), lambda text: len(json.dumps(text)), math.inf, most_bytes)
    return (_message(batch, headers) for batch in batches)


def _message(events: list[str], headers: dict[str, Any]) -> str:
    return json.dumps(
        {
            "body": f"[{','.join(events)}]",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": {
                "body_encoding": "utf-8",
                "delivery_info": {"exchange": EVENT_EXCHANGE_NAME, "routing_key": "task.multi"},
                "delivery_mode": 1,
                "delivery_tag": uuid(),
                "priority": 0,
            },
        }
    )
