"""Detects a stalled consumer, makes the worker's liveness probe fail, and gives back messages that have not begun.

Otherwise a stalled worker would keep its messages forever, because the thread that extends their visibility still
runs.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from celery.bootsteps import TERMINATE
from celery.worker import state as worker_state
from kombu.log import get_logger

from celery_sqs.held_message import State
from celery_sqs.held_messages import held_messages
from celery_sqs.poller import pause
from celery_sqs.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kombu.transport import SQS

    from celery_sqs.consumer_loop import ConsumerLoop
    from celery_sqs.held_message import HeldMessage

logger = get_logger(__name__)

STALLED_SECONDS = 60.0
TICK_SECONDS = 5.0


class StallDetector:
    """Decides from the facts of each tick whether the consumer is stalled. It keeps its own clock.

    The consumer is stalled if its loop has not run for `STALLED_SECONDS`, or if a message that could run has waited
    that long while the pool had a free slot at every tick. While the pool is full, the consumer is never stalled,
    because messages then wait for a slot, and some pools also block the loop (gevent, solo).
    """

    def __init__(self) -> None:
        self._clock = 0.0
        self._beats = -1
        self._beat_at = 0.0
        self._waiting_since: dict[str, float] = {}

    def tick(self, seconds: float, *, beats: int, has_free_slot: bool, waiting: set[str]) -> str:
        """Record the state of the consumer, `seconds` after the last tick. Return what is wrong, or "".

        `waiting` contains the delivery tags of the messages that could run now.
        """
        # After a long gap the whole process was probably stopped (SIGSTOP, a suspended machine). The gap does not count
        # in full, because the loop needs a moment to catch up.
        self._clock += min(seconds, 2 * TICK_SECONDS)
        if beats != self._beats or not has_free_slot:
            self._beats, self._beat_at = beats, self._clock
        self._waiting_since = {
            tag: self._waiting_since.get(tag, self._clock) for tag in (waiting if has_free_slot else ())
        }
        if self._clock - self._beat_at >= STALLED_SECONDS:
            return f"the consumer's loop has not run for {self._clock - self._beat_at:.0f} seconds"
        longest = max((self._clock - since for since in self._waiting_since.values()), default=0)
        if longest >= STALLED_SECONDS:
            return f"a message has waited for {longest:.0f} seconds although the pool has a free slot"
        return ""


class Watchdog:
    """Watches the consumer of one worker from its own thread."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._detector = StallDetector()
        self._stalled = ""

    def start(self) -> None:
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        last = time.monotonic()
        while self._consumer.blueprint.state != TERMINATE:
            threading.Event().wait(TICK_SECONDS)
            now = time.monotonic()
            try:
                self._look(now - last)
            except Exception:  # if this thread ended, no stall would be detected any more
                logger.exception("the watchdog cannot see whether the consumer is stalled")
            last = now

    def _look(self, seconds: float) -> None:
        transport = self._transport()
        if transport is None:
            return
        loop: ConsumerLoop = transport.consumer_loop  # type: ignore[attr-defined]  # ours has it
        wrong = self._detector.tick(
            seconds, beats=loop.beats, has_free_slot=self._has_free_slot(), waiting=set(self._waiting(transport))
        )
        loop.stalled = wrong
        if wrong:
            # Receive nothing while the stall lasts. Messages from a long poll that is still open are given back at the
            # next tick.
            pause.begin(2 * TICK_SECONDS)
            count = sum(channel.receiver.release_all() for channel in list(transport.channels))
            if count or not self._stalled:
                logger.error("stalled: %s; gave back %d messages that had not begun", wrong, count)
        elif self._stalled:
            logger.warning("the consumer is no longer stalled")
        self._stalled = wrong

    def _transport(self) -> SQS.Transport | None:
        """Return the consumer's transport, or None while the worker reconnects or shuts down."""
        connection = self._consumer.connection
        if not connection or _is_told_to_stop():
            return None
        transport: SQS.Transport = connection.transport
        return transport

    def _has_free_slot(self) -> bool:
        begun = sum(message.state is State.RUNNING for message in held_messages().held())
        # The first count misses tasks that were acknowledged early. The second misses tasks whose process has not yet
        # reported that they began.
        return max(begun, len(worker_state.active_requests)) < int(self._consumer.pool.num_processes)

    @staticmethod
    def _waiting(transport: SQS.Transport) -> Iterator[str]:
        """Yield the delivery tags of the messages that could run now, because no ETA or rate limit holds them back.

        Celery reserves a request once it is past both. Requests of other classes are left out, because they do not
        report when they begin.
        """
        reserved = {
            request.message.delivery_tag
            for request in list(worker_state.reserved_requests)
            if isinstance(request, Request)
        }
        for message in _consumed(transport):
            if message.state is State.IN_INBOX or (message.state is State.WAITING and message.tag in reserved):
                yield message.tag


def _is_told_to_stop() -> bool:
    # Celery sets these to an exit code, which may be 0.
    told = (worker_state.should_stop, worker_state.should_terminate)
    return any(code is not None and code is not False for code in told)


def _consumed(transport: SQS.Transport) -> list[HeldMessage]:
    """Return the held messages of the queues that the transport's channels consume."""
    sources = {source for channel in list(transport.channels) for source in channel.receiver.sources}
    return [message for message in held_messages().held() if message.queue in sources]
