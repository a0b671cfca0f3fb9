"""The messages that this process holds, each from its receive until SQS has confirmed what became of it."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from kombu.log import get_logger

from celery_sqs.batcher import Batcher, Entry
from celery_sqs.per_process import at_exit, one_per_process
from celery_sqs.quiet import OnceAMinute
from celery_sqs.sqs.dead_letters import Reason, message_bytes, with_reason
from celery_sqs.sqs.errors import ACCESS_DENIED, NO_SUCH_QUEUE, STALE_HANDLE
from celery_sqs.visibility import VisibilityKeeper, batches_by_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery_sqs.sqs.queue import Queue, ReceivedMessage

logger = get_logger(__name__)
complain = OnceAMinute(logger)

# How long an entry waits for others to share its request. A publish is on an email's way; a delete is on nobody's.
SEND_LINGER_SECONDS = 0.05
DELETE_LINGER_SECONDS = 0.1

EXIT_FLUSH_SECONDS = 10

# How long a release waits for an extension of visibility that is under way: SQS answers sooner, or not at all.
EXTENSION_SECONDS = 1.0

# No other try goes better. Of deletes and changes of visibility: the handle is stale, or the queue is gone.
FINAL_FOR_HANDLE = STALE_HANDLE | NO_SUCH_QUEUE
FINAL_FOR_SEND = NO_SUCH_QUEUE | {
    "AWS.SimpleQueueService.UnsupportedOperation",
    "InvalidAttributeValue",
    "InvalidMessageContents",
    "InvalidParameterValue",
    "MissingParameter",
    "UnsupportedOperation",
}


class Delivery:
    """One received message.

    It is settled (deleted, dead-lettered) by `ack` or `reject`, but not before SQS has confirmed every message that was
    published because of it. Thread-safe.
    """

    def __init__(self, deliveries: Deliveries, queue: Queue, message: ReceivedMessage, visibility_timeout: int) -> None:
        self.queue = queue
        self.message = message
        self.visibility_timeout = visibility_timeout
        self.received_at = self.extended_at = time.monotonic()
        self.in_inbox = True  # the consumer has not looked at it yet
        self.lost = False  # its handle is stale: SQS has given the message to somebody else
        self._deliveries = deliveries
        self._lock = threading.Lock()
        self._started = False
        self._begin_is_told = True
        self._released = False
        self._children = 0
        self._refused: Reason | None = None
        self._settle: Callable[[], None] | None = None
        self._settled = threading.Event()

    @property
    def tag(self) -> str:
        handle: str = self.message["ReceiptHandle"]
        return handle

    @property
    def group(self) -> str:
        """Its message group, or "" where it has none."""
        group: str = self.message.get("Attributes", {}).get("MessageGroupId", "")
        return group

    def hand_to_worker(self) -> None:
        """Celery's worker has it: unless a request of ours says when it begins, it may have begun from now on."""
        self._begin_is_told = False

    def will_tell_when_it_begins(self) -> None:
        """`start` is called before its work begins."""
        self._begin_is_told = True

    def start(self) -> bool:
        """Whether its work may begin: not where the message was released to others."""
        with self._lock:
            self._started = not self._released
            return self._started

    def publish(self, queue: Queue, parameters: dict[str, Any], *, may_wait: bool = True) -> None:
        """Send a message because of this one: this one stays until SQS has confirmed it."""
        with self._lock:
            self._children += 1
        entry = Entry(queue, parameters, partial(self._child_done, queue), message_bytes(parameters))
        self._deliveries.sends.add(entry, may_wait=may_wait)

    def ack(self) -> None:
        self._finish(self._after_children)

    def reject(self, reason: Reason) -> None:
        """Move it to its queue's dead-letter queue. Where there is none, delete it and say so."""
        self._finish(lambda: self._dead_letter(reason))

    def delay(self, seconds: int) -> None:
        """Replace it by a copy that comes after so many seconds, which a FIFO queue refuses."""
        attributes = self.message.get("MessageAttributes", {})
        self.publish(self.queue, self.queue.copy_of(self.message, attributes) | {"DelaySeconds": seconds})
        self.ack()

    def give_up(self, after: int) -> None:
        """Let it be received again after so many seconds."""
        self._finish(lambda: self._give_up(after))

    def leave(self) -> None:
        """Somebody else has said when it is to be received again."""
        self._finish(self._settled_as_it_is)

    @property
    def is_running(self) -> bool:
        """Whether work on it began and has not ended."""
        return self._started and not self._settle

    @property
    def has_begun(self) -> bool:
        """Whether work on it began, or is not to begin any more."""
        return bool(self._started or self._released or self._settle or not self._begin_is_told)

    @property
    def is_open(self) -> bool:
        """Whether messages may still be published because of it."""
        return not (self._settle or self._released)

    def wait_settled(self) -> None:
        """Wait until SQS has confirmed what became of it."""
        self._deliveries.deletes.hurry()
        self._settled.wait()

    def lost_by(self, code: str) -> bool:
        """Whether SQS's answer means that the message is not ours any more; remembers it."""
        self.lost = self.lost or code in FINAL_FOR_HANDLE
        return self.lost

    def try_release(self) -> bool:
        """Give up a message on which no work began; says whether there was none."""
        with self._lock:
            if self._started or self._released or self._settle or not self._begin_is_told:
                return False
            self._released = True
            return True

    def _finish(self, settle: Callable[[], None]) -> None:
        with self._lock:
            if self._settle or self._released:
                return
            self._settle = settle
            ready = not self._children
        self._deliveries.at_work(-1)
        if ready:
            settle()

    def _child_done(self, queue: Queue, code: str) -> None:
        with self._lock:
            self._children -= 1
            if code:
                detail = f"SQS refuses a message that this one's task published to {queue.name}: {code}"
                self._refused = Reason("ChildRefused", detail)
            ready = not self._children and self._settle
        if ready:
            ready()

    def _after_children(self) -> None:
        if self._refused:
            self._dead_letter(self._refused)
        else:
            self._delete()

    def _moved(self, code: str) -> None:
        if code:
            complain(
                "the dead-letter queue of %s refuses message %s: %s", self.queue.name, self.message["MessageId"], code
            )
            self._settled_as_it_is()
        else:
            self._delete()

    def _give_up(self, after: int) -> None:
        self._settled_as_it_is()
        self._deliveries.wait_until_extended()
        make_visible(self.queue, [self.tag], after)

    def _settled_as_it_is(self) -> None:
        self._deliveries.remove(self)
        self._settled.set()

    def _delete(self) -> None:
        # A batcher's own thread may be the one that comes here: it must not wait for itself.
        entry = Entry(self.queue, {"ReceiptHandle": self.tag}, self._deleted)
        self._deliveries.deletes.add(entry, may_wait=False)

    def _deleted(self, code: str) -> None:
        if code:
            logger.info("message %s of %s was not ours to delete: %s", self.message["MessageId"], self.queue.name, code)
        self._settled_as_it_is()

    def _dead_letter(self, reason: Reason) -> None:
        message_id = self.message["MessageId"]
        try:
            target = self.queue.dead_letters()
        except (BotoCoreError, ClientError) as error:
            # It stays, SQS delivers it again, and it is rejected again.
            complain("cannot find the dead-letter queue of %s for message %s: %s", self.queue.name, message_id, error)
            self._settled_as_it_is()
            return
        if target is None:
            text = "dropped message %s of %s, which has no dead-letter queue: %s (%s)"
            logger.warning(text, message_id, self.queue.name, reason.code, reason.detail)
            self._delete()
            return
        attributes = with_reason(self.message["Body"], self.message.get("MessageAttributes", {}), reason)
        parameters = target.copy_of(self.message, attributes)
        self._deliveries.sends.add(Entry(target, parameters, self._moved, message_bytes(parameters)), may_wait=False)


class Deliveries:
    """All that the process holds, and the batches by which it leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Delivery] = {}
        self._at_work = 0
        self.sends = Batcher("sends", _send, SEND_LINGER_SECONDS, is_final_for_send)
        self.deletes = Batcher("deletes", _delete, DELETE_LINGER_SECONDS, _is_final_for_delete)
        self._keeper = VisibilityKeeper(self.held)
        at_exit(self.exit)

    def add(self, queue: Queue, message: ReceivedMessage, visibility_timeout: int) -> Delivery:
        delivery = Delivery(self, queue, message, visibility_timeout)
        with self._lock:
            self._held[delivery.tag] = delivery
            self._at_work += 1
        self._keeper.watch()
        return delivery

    def get(self, tag: str) -> Delivery | None:
        return self._held.get(tag)

    def held(self) -> list[Delivery]:
        with self._lock:
            return list(self._held.values())

    def remove(self, delivery: Delivery) -> None:
        with self._lock:
            self._held.pop(delivery.tag, None)

    def at_work(self, change: int) -> None:
        """Count one more or one less at work: where there is none, no publish can come that others would wait for."""
        with self._lock:
            self._at_work += change
            idle = not self._at_work
        if idle:
            self.sends.hurry()

    def release(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Let those be received again on which no work began. Returns them."""
        released = [delivery for delivery in deliveries if delivery.try_release()]
        for delivery in released:
            self.remove(delivery)
            self.at_work(-1)
        self._make_all_visible(released)
        return released

    def wait_until_extended(self) -> None:
        """Come after an extension of visibility that is under way: it would undo that a message is given back."""
        self._keeper.wait_until_extended(EXTENSION_SECONDS)

    def exit(self, flush_seconds: float = EXIT_FLUSH_SECONDS) -> None:
        """Confirm what is finished, and let the rest be received again: nothing of ours waits for a time-out."""
        unsent = self.sends.flush(flush_seconds)
        undeleted = self.deletes.flush(flush_seconds)
        if unsent or undeleted:
            logger.error(
                "exit: SQS confirmed neither %d messages sent nor %d deleted; those will be received again",
                unsent,
                undeleted,
            )
        left = self.held()
        with self._lock:
            self._held.clear()
        self._make_all_visible(left)

    def _make_all_visible(self, deliveries: list[Delivery]) -> None:
        if deliveries:
            self.wait_until_extended()
        for batch in batches_by_queue(deliveries):
            make_visible(batch[0].queue, [delivery.tag for delivery in batch])


def get_deliveries() -> Deliveries:
    """The process's own: one that publishes does so by another connection than the one it receives by."""
    return one_per_process(Deliveries, Deliveries)


def make_visible(queue: Queue, handles: list[str], after: int = 0) -> None:
    """Let up to ten messages be received again after so many seconds; where that fails they come back by themselves."""
    entries = [{"ReceiptHandle": handle, "VisibilityTimeout": after} for handle in handles]
    try:
        if entries:
            queue.change_visibility_batch(entries)
    except Exception as error:  # noqa: BLE001 (whoever gives back is on the way out, and time does it too)
        complain("cannot give back messages of %s: %s; they come back by themselves", queue.name, error)


def is_final_for_send(queue: Queue, code: str) -> bool:
    """Whether SQS refuses a message for good. What it denies of the worker's own queues will be allowed again."""
    return code in FINAL_FOR_SEND or (code in ACCESS_DENIED and not queue.is_own())


def _is_final_for_delete(queue: Queue, code: str) -> bool:  # noqa: ARG001 (a queue that is received from is our own)
    return code in FINAL_FOR_HANDLE


def _send(queue: Queue, batch: list[Entry]) -> list[str]:
    return queue.send_batch([entry.parameters for entry in batch])


def _delete(queue: Queue, batch: list[Entry]) -> list[str]:
    return queue.delete_batch([entry.parameters for entry in batch])
