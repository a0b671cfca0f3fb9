"""One received message, from when it is received until SQS has confirmed how it was settled."""

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
    """The state of a held message."""

    IN_INBOX = auto()  # the consumer has not seen it yet
    HANDED_OVER = auto()  # Celery's worker has it, and may begin work on it without telling us
    WAITING = auto()  # the consumer has it, and will call `start` before work begins
    RUNNING = auto()
    RELEASED = auto()  # it was given back before work began
    FINISHED = auto()  # it is being deleted, dead-lettered or given back


class Holder(Protocol):
    """The part of HeldMessages that a message uses."""

    sends: Batcher
    deletes: Batcher

    def finished(self) -> None: ...
    def remove(self, message: HeldMessage) -> None: ...
    def release(self, messages: Iterable[HeldMessage]) -> list[HeldMessage]: ...
    def give_back(self, message: HeldMessage, after: int) -> None: ...


class HeldMessage:
    """One received message, which is settled (deleted, dead-lettered or given back) exactly once.

    `ack`, `reject`, `delay`, `give_back` and `requeue` settle it. It is not deleted before each message that its task
    published is confirmed by SQS or, if it was handed off to this worker, settled. It is thread-safe.
    """

    hops = 0  # how many times in a row a message was handed off to get to this one

    def __init__(self, holder: Holder, queue: Queue, received: ReceivedMessage, visibility_timeout: int) -> None:
        self.queue = queue
        self.received = received
        self.visibility_timeout = visibility_timeout
        self.received_at = self.extended_at = time.monotonic()
        self.lost = False  # whether its handle is stale, because SQS has delivered the message to somebody else
        self._holder = holder
        self._lock = threading.Lock()
        self.state = State.IN_INBOX  # changed under the lock
        self._is_to_be_released = False
        self._children = 0
        self._child_error: Reason | None = None
        self._must_stay = False  # whether SQS has no other message that stands for one of its children
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
        """The message group, or "" if the message has none."""
        group: str = self.received.get("Attributes", {}).get("MessageGroupId", "")
        return group

    @property
    def receive_count(self) -> int:
        return int(self.received.get("Attributes", {}).get("ApproximateReceiveCount", 1))

    @property
    def is_open(self) -> bool:
        """Whether it is neither released nor finished, so that its task may still publish messages."""
        return self.state not in (State.RELEASED, State.FINISHED)

    def hand_over(self) -> None:
        """Note that Celery's worker has it. From now on work may have begun, unless our Request says when it begins."""
        self._move({State.IN_INBOX}, State.HANDED_OVER)

    def wait_for_start(self) -> None:
        """Note that the consumer has it and will call `start` before work begins."""
        self._move({State.IN_INBOX, State.HANDED_OVER}, State.WAITING)
        if self._is_to_be_released:
            self._holder.release([self])

    def start(self) -> bool:
        """Note that work begins. Return False if it must not begin, because the message was released."""
        self._move({State.IN_INBOX, State.HANDED_OVER, State.WAITING}, State.RUNNING)
        return self.state is not State.RELEASED

    def try_release(self) -> bool:
        """Release the message if no work on it has begun. Return whether it was released.

        While the worker makes its request, we cannot know whether work has begun. In that case the message is released
        as soon as the request exists.
        """
        with self._lock:
            self._is_to_be_released = self.state is State.HANDED_OVER
        return self._move({State.IN_INBOX, State.WAITING}, State.RELEASED)

    def _move(self, sources: set[State], target: State) -> bool:
        with self._lock:
            if moved := self.state in sources:
                self.state = target
            return moved

    def publish(self, queue: Queue, parameters: dict[str, Any]) -> None:
        """Send a message that this message's task publishes. This message is kept until SQS has confirmed that one."""
        self.add_child()
        self.send_for_child(queue, parameters)

    def add_child(self) -> None:
        """Keep this message until `child_done` or `send_for_child` has settled one more child."""
        with self._lock:
            self._children += 1

    def send_for_child(self, queue: Queue, parameters: dict[str, Any], *, may_wait: bool = True) -> None:
        """Send the message of a child that `add_child` has counted. SQS's confirmation settles it."""
        entry = Entry(queue, parameters, partial(self._child_sent, queue), message_bytes(parameters))
        self._holder.sends.add(entry, may_wait=may_wait)

    def child_done(self, error: Reason | None = None, *, must_stay: bool = False) -> None:
        """Note that a child is settled.

        With an error, this message becomes a dead letter if it was to be deleted. With `must_stay`, it stays on its
        queue, because nothing else on SQS stands for the child.
        """
        with self._lock:
            self._children -= 1
            self._child_error = error or self._child_error
            self._must_stay = self._must_stay or must_stay
            ready = self._settle is not None and not self._children
        if ready:
            self._settle_now()

    def ack(self) -> None:
        self._finish(self._after_children)

    def reject(self, reason: Reason) -> None:
        """Move it to its queue's dead-letter queue. If the queue has none, delete it and log that."""
        self._finish(partial(self._dead_letter, reason))

    def delay(self, seconds: int) -> None:
        """Replace it by a copy that SQS delivers after so many seconds. FIFO queues do not accept this."""
        copy = self.queue.copy_of(self.received, self.received.get("MessageAttributes", {}))
        self.publish(self.queue, copy | {"DelaySeconds": seconds})
        self.ack()

    def give_back(self, after: int) -> None:
        """Give it back, so that it is received again after so many seconds."""
        self._finish(partial(self._give_back, after))

    def requeue(self) -> None:
        """Give it back, the first time without a delay, as other transports do, and then with a doubling delay.

        Without the delay, a message that keeps failing would reach the redrive policy's maximum receives in a moment.
        """
        received = self.receive_count
        self.give_back(after=min(2 ** (received - 1), MAX_DELAY_SECONDS) if received > 1 else 0)

    def leave(self) -> None:
        """Stop holding it, without a request to SQS. kombu has already set when it is to be received again."""
        self._finish(self.stop_holding)

    def stop_holding(self) -> None:
        """Note that it is settled."""
        self._holder.remove(self)
        self._settled.set()

    def wait_settled(self) -> None:
        """Wait until SQS has confirmed how it was settled."""
        self._holder.deletes.flush_soon()
        self._settled.wait()

    def lost_by(self, code: str) -> bool:
        """Return whether SQS's error code means that the message is no longer ours, and remember that in `lost`."""
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
            self._settle_now()

    def _child_sent(self, queue: Queue, code: str) -> None:
        detail = f"SQS refused a message that this message's task published to {queue.name}: {code}"
        self.child_done(Reason("ChildRefused", detail) if code else None)

    def _settle_now(self) -> None:
        settle, self._settle = self._settle, None  # it refers to this message, so to keep it would be a cycle
        if self._must_stay:
            self._stay()
        elif settle:
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
            # The message stays on its queue. SQS will deliver it again, and it will be rejected again.
            complain("cannot find the dead-letter queue of %s for message %s: %s", self.queue.name, self.id, error)
            self._stay()
            return
        if target is None:
            text = "dropped message %s of %s, which has no dead-letter queue: %s (%s)"
            logger.warning(text, self.id, self.queue.name, reason.code, reason.detail)
            self._delete()
            return
        attributes = with_reason(self.received["Body"], self.received.get("MessageAttributes", {}), reason)
        copy = target.copy_of(self.received, attributes)
        # A batcher's own thread may run this, and it must not wait for itself.
        self._holder.sends.add(Entry(target, copy, self._dead_lettered, message_bytes(copy)), may_wait=False)

    def _dead_lettered(self, code: str) -> None:
        if code:
            text = "the dead-letter queue of %s refused message %s: %s"
            complain(text, self.queue.name, self.id, code)
            self._stay()
        else:
            self._delete()

    def _delete(self) -> None:
        entry = Entry(self.queue, {"ReceiptHandle": self.tag}, self._deleted)
        self._holder.deletes.add(entry, may_wait=False)

    def _deleted(self, code: str) -> None:
        if code:
            logger.info("message %s of %s was no longer ours to delete: %s", self.id, self.queue.name, code)
        self.stop_holding()

    def _give_back(self, after: int) -> None:
        self._settled.set()
        self._holder.give_back(self, after)

    def _stay(self) -> None:
        """Let SQS deliver it again when its visibility time-out ends."""
        self.stop_holding()
