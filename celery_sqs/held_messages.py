"""All messages that this process holds, and the batchers that send, dead-letter and delete."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from kombu.log import get_logger

from celery_sqs.batcher import Batcher
from celery_sqs.hand_off import HandedOffMessage
from celery_sqs.held_message import HeldMessage, State
from celery_sqs.per_process import at_exit, one_per_process
from celery_sqs.sqs.errors import FINAL_FOR_HANDLE
from celery_sqs.visibility import VisibilityKeeper, batches_by_queue, make_visible

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from celery_sqs.sqs.queue import Queue, ReceivedMessage

logger = get_logger(__name__)

# How long an entry waits for others to share its request. Publishing is on the critical path, deleting is not.
SEND_LINGER_SECONDS = 0.05
DELETE_LINGER_SECONDS = 0.1

EXIT_FLUSH_SECONDS = 10

# How long a release waits for a request in progress that extends visibility. SQS answers sooner than this, or not at
# all.
EXTENSION_SECONDS = 1.0


class HeldMessages:
    """The messages that one process holds. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all_released = threading.Condition(self._lock)
        self._releasing = 0  # how many releases are in progress
        self._held: dict[str, HeldMessage] = {}
        self._handed_off: dict[str, HandedOffMessage] = {}  # those of them that are not on SQS
        self._unfinished = 0
        self.sends = Batcher(
            "sends",
            lambda queue, batch: queue.send_batch(batch),
            SEND_LINGER_SECONDS,
            lambda queue, code: queue.is_final_for_send(code),
        )
        self.deletes = Batcher(
            "deletes",
            lambda queue, batch: queue.delete_batch(batch),
            DELETE_LINGER_SECONDS,
            lambda _, code: code in FINAL_FOR_HANDLE,
        )
        self._keeper = VisibilityKeeper(self.received)
        at_exit(self.exit)

    def add(self, queue: Queue, message: ReceivedMessage, visibility_timeout: int) -> HeldMessage:
        held = HeldMessage(self, queue, message, visibility_timeout)
        self._hold(held)
        self._keeper.watch()
        return held

    def hand_off(self, queue: Queue, parent: HeldMessage, parameters: dict[str, Any], task_id: str) -> HandedOffMessage:
        """Hold a message that the parent's task publishes and that this worker runs without SQS."""
        held = HandedOffMessage(self, queue, parent, parameters, task_id)
        with self._lock:
            self._handed_off[held.tag] = held
        self._hold(held)
        return held

    def _hold(self, message: HeldMessage) -> None:
        with self._lock:
            self._held[message.tag] = message
            self._unfinished += 1

    def get(self, tag: str) -> HeldMessage | None:
        return self._held.get(tag)

    def held(self) -> list[HeldMessage]:
        with self._lock:
            return list(self._held.values())

    def received(self) -> list[HeldMessage]:
        """Return the held messages that are on SQS, which are all but the handed-off ones."""
        with self._lock:
            return [message for tag, message in self._held.items() if tag not in self._handed_off]

    def has_room(self, limit: int) -> bool:
        """Return whether fewer than so many handed-off messages wait to begin."""
        if len(self._handed_off) < limit:
            return True  # there is no need to look at each, for every message that a task publishes
        with self._lock:
            handed_off = list(self._handed_off.values())
        return sum(message.state not in (State.RUNNING, State.FINISHED) for message in handed_off) < limit

    def remove(self, message: HeldMessage) -> None:
        with self._lock:
            self._held.pop(message.tag, None)
            self._handed_off.pop(message.tag, None)

    def finished(self) -> None:
        """Note that work on a message has ended.

        If it was the last one, no further publish can join the current batch, so the batch is sent at once.
        """
        with self._lock:
            self._unfinished -= 1
            idle = not self._unfinished
        if idle:
            self.sends.flush_soon()

    def give_back(self, message: HeldMessage, after: int) -> None:
        """Stop holding a finished message, and make it visible again after so many seconds."""
        self.remove(message)
        self._make_visible([message], after)

    def release(self, messages: Iterable[HeldMessage]) -> list[HeldMessage]:
        """Give back those of the messages on which no work has begun. Return them."""
        with self._lock:
            self._releasing += 1
        try:
            released = [message for message in messages if message.try_release()]
            for message in released:
                self.remove(message)
                if isinstance(message, HandedOffMessage):
                    message.send()
                self.finished()
            self._make_visible([message for message in released if not isinstance(message, HandedOffMessage)])
        finally:
            with self._lock:
                self._releasing -= 1
                self._all_released.notify_all()
        return released

    def exit(self, flush_seconds: float = EXIT_FLUSH_SECONDS) -> None:
        """Send and delete what is finished, and give back the rest, so that no message has to wait for its time-out."""
        # A thread of its own releases at a stop (`stop_receiving`), and nobody else knows what it is giving back.
        with self._lock:
            self._all_released.wait_for(lambda: not self._releasing, flush_seconds)
        unsent = self.sends.flush(flush_seconds)
        undeleted = self.deletes.flush(flush_seconds)
        if unsent or undeleted:
            text = "exit: SQS has not confirmed %d sends and %d deletions; those messages will be received again"
            logger.error(text, unsent, undeleted)
        left = self.received()
        with self._lock:
            self._held.clear()
            self._handed_off.clear()
        self._make_visible(left)

    def _make_visible(self, messages: list[HeldMessage], after: int = 0) -> None:
        if messages:  # a request in progress that extends their visibility would hide them again
            self._keeper.wait_until_extended(EXTENSION_SECONDS)
        for batch in batches_by_queue(messages):
            make_visible(batch[0].queue, [message.tag for message in batch], after)


def held_messages() -> HeldMessages:
    """Return the HeldMessages of this process.

    They are shared by its connections, because a worker publishes and receives through different ones.
    """
    return one_per_process(HeldMessages, HeldMessages)
