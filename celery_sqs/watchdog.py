"""Notices that a worker's consumer is stalled, fails its liveness probe, and gives its unbegun messages back.

A stalled worker would otherwise keep its messages for ever: the threads that extend their visibility still run.
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
    """Decides from what it is told at each tick whether the consumer is stalled. It has a clock of its own.

    A full pool is never a stall: each message waits for a slot, and some pools block the loop meanwhile (gevent, solo).
    Otherwise the consumer is stalled if its loop has not come round for `STALLED_SECONDS`, or if one message that may
    run has waited so long while there was a free slot at every tick.
    """

    def __init__(self) -> None:
        self._clock = 0.0
        self._beats = -1
        self._beat_at = 0.0
        self._waiting_since: dict[str, float] = {}

    def tick(self, seconds: float, *, beats: int, has_free_slot: bool, waiting: set[str]) -> str:
        """Note how things are, `seconds` after the last tick. Returns what is wrong, or "".

        `waiting` has the delivery tags of the messages that might run now.
        """
        # The whole process may have been stopped (SIGSTOP, a suspended machine), and the loop needs a moment, too.
        self._clock += min(seconds, 2 * TICK_SECONDS)
        if beats != self._beats or not has_free_slot:
            self._beats, self._beat_at = beats, self._clock
        self._waiting_since = {
            tag: self._waiting_since.get(tag, self._clock) for tag in (waiting if has_free_slot else ())
        }
        if self._clock - self._beat_at >= STALLED_SECONDS:
            return f"the consumer's loop has not come round for {self._clock - self._beat_at:.0f} seconds"
        longest = max((self._clock - since for since in self._waiting_since.values()), default=0)
        if longest >= STALLED_SECONDS:
            return f"a message has waited for {longest:.0f} seconds beside a free slot of the pool"
        return ""


class Watchdog:
    """Watches one worker's consumer from a thread of its own."""

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
            except Exception:  # a thread that ends notices nothing, and nobody would know
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
            # Receive nothing while the stall lasts. What an open long poll still brings is given back at the next tick.
            pause.begin(2 * TICK_SECONDS)
            count = sum(channel.receiver.release_all() for channel in list(transport.channels))
            if count or not self._stalled:
                logger.error("stalled: %s; gave %d messages back that had not begun", wrong, count)
        elif self._stalled:
            logger.warning("the consumer is not stalled any more")
        self._stalled = wrong

    def _transport(self) -> SQS.Transport | None:
        """The consumer's, unless it is connecting again or shutting down."""
        connection = self._consumer.connection
        if not connection or _is_told_to_stop():
            return None
        transport: SQS.Transport = connection.transport
        return transport

    def _has_free_slot(self) -> bool:
        begun = sum(message.state is State.RUNNING for message in held_messages().held())
        # The first count misses tasks that were acknowledged early, the second those whose process has yet to say so.
        return max(begun, len(worker_state.active_requests)) < int(self._consumer.pool.num_processes)

    @staticmethod
    def _waiting(transport: SQS.Transport) -> Iterator[str]:
        """The tags of messages that might run now: neither an ETA nor a rate limit holds them back.

        Celery reserves a request when those are over. Requests of other classes than ours tell nobody when they begin.
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
    # Celery sets an exit code, of which 0 is one.
    told = (worker_state.should_stop, worker_state.should_terminate)
    return any(code is not None and code is not False for code in told)


def _consumed(transport: SQS.Transport) -> list[HeldMessage]:
    """What is held of the queues that the transport's channels consume."""
    sources = {source for channel in list(transport.channels) for source in channel.receiver.sources}
    return [message for message in held_messages().held() if message.queue in sources]
