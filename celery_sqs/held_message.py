"""One received message, from its receive until SQS has confirmed what became of it."""

from __future__ import annotations

import threading
import time
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Protocol

from botocore.exceptions import BotoCoreError, ClientError
from kombu.log import get_logger

from celery_sqs.batcher import Batcher, Entry
from celery_sqs.delays import MAX_DELAY_SECONDS
from celery_sqs.log import OnceAMinute
from celery_sqs.sqs.dead_letters import Reason, message_bytes, with_reason
from celery_sqs.sqs.errors import FINAL_FOR_HANDLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from celery_sqs.sqs.queue import Queue, ReceivedMessage

logger = get_logger(__name__)
complain = OnceAMinute(logger)


class State(Enum):
    """How far a held message has come."""

    IN_INBOX = auto()  # the consumer has not looked at it yet
    HANDED_OVER = auto()  # Celery's worker has it, and may begin to work on it without a word
    WAITING = auto()  # the consumer has it, and calls `start` before its work begins
    RUNNING = auto()
    RELEASED = auto()  # given back before its work began
    FINISHED = auto()  # it is to be deleted, dead-lettered or given back


class Holder(Protocol):
    """What a message needs of HeldMessages."""

    sends: Batcher
    deletes: Batcher

    def finished(self) -> None: ...
    def remove(self, message: HeldMessage) -> None: ...
    def release(self, messages: Iterable[HeldMessage]) -> list[HeldMessage]: ...
    def give_back(self, message: HeldMessage, after: int) -> None: ...


class HeldMessage:
    """It is settled (deleted, dead-lettered, given back) once, by `ack`, `reject`, `delay` or `give_back`.

    Nothing is deleted before SQS has confirmed every message that was published because of it. Thread-safe.
    """

    def __init__(self, holder: Holder, queue: Queue, received: ReceivedMessage, visibility_timeout: int) -> None:
        self.queue = queue
        self.received = received
        self.visibility_timeout = visibility_timeout
        self.received_at = self.extended_at = time.monotonic()
        self.lost = False  # its handle is stale: SQS has given the message to somebody else
        self._holder = holder
        self._lock = threading.Lock()
        self.state = State.IN_INBOX  # changed under the lock
        self._is_to_be_released = False
        self._children = 0
        self._child_error: Reason | None = None
        self._settle: Callable[[], None] | None = None
        self._settled = threading.Event()

    @property
    def id(self) -> str:
        message_id: str = self.received["MessageId"]
        return message_id

    @property
    def tag(self) -> str:
        handle: str = self.received["ReceiptHandle"]
        return handle

    @property
    def group(self) -> str:
        """Its message group, or "" where it has none."""
        group: str = self.received.get("Attributes", {}).get("MessageGroupId", "")
        return group

    @property
    def receive_count(self) -> int:
        return int(self.received.get("Attributes", {}).get("ApproximateReceiveCount", 1))

    @property
    def is_open(self) -> bool:
        """Whether messages may still be published because of it."""
        return self.state not in (State.RELEASED, State.FINISHED)

    def hand_over(self) -> None:
        """Celery's worker has it. It may have begun from now on, unless a request of ours says when it begins."""
        self._move({State.IN_INBOX}, State.HANDED_OVER)

    def wait_for_start(self) -> None:
        """The consumer has it, and calls `start` before its work begins."""
        self._move({State.IN_INBOX, State.HANDED_OVER}, State.WAITING)
        if self._is_to_be_released:
            self._holder.release([self])

    def start(self) -> bool:
        """Whether its work may begin: not where the message was released to others."""
        self._move({State.IN_INBOX, State.HANDED_OVER, State.WAITING}, State.RUNNING)
        return self.state is not State.RELEASED

    def try_release(self) -> bool:
        """Give up a message on which no work began; says whether there was none.

        While the worker makes its request nobody can say, so that a message is released when the request is made.
        """
        with self._lock:
            self._is_to_be_released = self.state is State.HANDED_OVER
        return self._move({State.IN_INBOX, State.WAITING}, State.RELEASED)

    def _move(self, sources: set[State], target: State) -> bool:
        with self._lock:
            if moved := self.state in sources:
                self.state = target
            return moved

    def publish(self, queue: Queue, parameters: dict[str, Any], *, may_wait: bool = True) -> None:
        """Send a message because of this one: this one stays until SQS has confirmed it."""
        with self._lock:
            self._children += 1
        entry = Entry(queue, parameters, partial(self._child_done, queue), message_bytes(parameters))
        self._holder.sends.add(entry, may_wait=may_wait)

    def ack(self) -> None:
        self._finish(self._after_children)

    def reject(self, reason: Reason) -> None:
        """Move it to its queue's dead-letter queue. Where there is none, delete it and say so."""
        self._finish(partial(self._dead_letter, reason))

    def delay(self, seconds: int) -> None:
        """Replace it by a copy that comes after so many seconds, which a FIFO queue refuses."""
        copy = self.queue.copy_of(self.received, self.received.get("MessageAttributes", {}))
        self.publish(self.queue, copy | {"DelaySeconds": seconds})
        self.ack()

    def give_back(self, after: int) -> None:
        """Let it be received again after so many seconds."""
        self._finish(partial(self._give_back, after))

    def requeue(self) -> None:
        """Give it back: at once the first time, as other transports do, and then after twice as long each time.

        What fails at once again would otherwise use up the queue's redrive policy in a moment.
        """
        received = self.receive_count
        self.give_back(after=min(2 ** (received - 1), MAX_DELAY_SECONDS) if received > 1 else 0)

    def leave(self) -> None:
        """Somebody else has said when it is to be received again."""
        self._finish(self._remove)

    def wait_settled(self) -> None:
        """Wait until SQS has confirmed what became of it."""
        self._holder.deletes.flush_soon()
        self._settled.wait()

    def lost_by(self, code: str) -> bool:
        """Whether SQS's answer means that the message is not ours any more; remembers it."""
        self.lost = self.lost or code in FINAL_FOR_HANDLE
        return self.lost

    def _finish(self, settle: Callable[[], None]) -> None:
        with self._lock:
            if not self.is_open:
                return
            self.state = State.FINISHED
            self._settle = settle
            ready = not self._children
        self._holder.finished()
        if ready:
            settle()

    def _child_done(self, queue: Queue, code: str) -> None:
        with self._lock:
            self._children -= 1
            if code:
                detail = f"SQS refuses a message that this one's task published to {queue.name}: {code}"
                self._child_error = Reason("ChildRefused", detail)
            settle = None if self._children else self._settle
        if settle:
            settle()

    def _after_children(self) -> None:
        if self._child_error:
            self._dead_letter(self._child_error)
        else:
            self._delete()

    def _dead_letter(self, reason: Reason) -> None:
        try:
            target = self.queue.dead_letters()
        except (BotoCoreError, ClientError) as error:
            # It stays, SQS delivers it again, and it is rejected again.
            complain("cannot find the dead-letter queue of %s for message %s: %s", self.queue.name, self.id, error)
            self._remove()
            return
        if target is None:
            text = "dropped message %s of %s, which has no dead-letter queue: %s (%s)"
            logger.warning(text, self.id, self.queue.name, reason.code, reason.detail)
            self._delete()
            return
        attributes = with_reason(self.received["Body"], self.received.get("MessageAttributes", {}), reason)
        copy = target.copy_of(self.received, attributes)
        # A batcher's own thread may be the one that comes here: it must not wait for itself.
        self._holder.sends.add(Entry(target, copy, self._dead_lettered, message_bytes(copy)), may_wait=False)

    def _dead_lettered(self, code: str) -> None:
        if code:
            text = "the dead-letter queue of %s refuses message %s: %s"
            complain(text, self.queue.name, self.id, code)
            self._remove()
        else:
            self._delete()

    def _delete(self) -> None:
        entry = Entry(self.queue, {"ReceiptHandle": self.tag}, self._deleted)
        self._holder.deletes.add(entry, may_wait=False)

    def _deleted(self, code: str) -> None:
        if code:
            logger.info("message %s of %s was not ours to delete: %s", self.id, self.queue.name, code)
        self._remove()

    def _give_back(self, after: int) -> None:
        self._settled.set()
        self._holder.give_back(self, after)

    def _remove(self) -> None:
        self._holder.remove(self)
        self._settled.set()
