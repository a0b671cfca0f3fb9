"""Messages that go from a task straight to its own worker, and the rule that decides which ones may.

SQS never sees such a message. Its root, the message on SQS with which its chain began, stays on SQS until everything
that was handed off from it is settled. If the worker is killed, SQS delivers the root again.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_sqs.held_message import HeldMessage
from celery_sqs.sqs.dead_letters import message_bytes

if TYPE_CHECKING:
    from celery_sqs.held_message import Holder
    from celery_sqs.sqs.queue import Queue

# A task that always publishes itself would never settle its root. After this many hops its message goes through SQS.
MAX_HOPS = 10

# A worker keeps the bodies of handed-off messages in memory. SQS keeps larger ones.
MAX_BYTES = 64 * 1024

_numbers = count()  # they tell the messages apart within this process, and nobody else sees them


class ConsumedQueue(NamedTuple):
    """A queue that this process's worker consumes."""

    name: str  # without the prefix
    queue: Queue  # the consumer's own, because each channel has different objects for the same queue
    is_raw: bool = False
    has_backoff_policy: bool = False
    priority: int = 0
    has_room: bool = True  # whether few handed-off messages wait to begin


def why_not(
    parent: HeldMessage,
    consumed: ConsumedQueue | None,
    parameters: dict[str, Any],
    *,
    acks_late: bool | None,
    is_retry: bool,
) -> str:
    """Return why a task's message must go through SQS, or "" if it may be handed off to the task's own worker.

    `consumed` is None if this process does not consume the message's queue, and `acks_late` is None if the message's
    task is not registered here.
    """
    if consumed is None:
        return "this worker does not consume its queue"
    objections = {
        "its queue is FIFO": consumed.queue.is_fifo,  # SQS keeps its order
        # SQS would deliver the rest of the parent's message group only after the child is settled.
        "its parent's queue is FIFO": parent.queue.is_fifo,
        "its queue is a raw queue": consumed.is_raw,  # whose messages Celery does not write
        "its queue has a backoff policy": consumed.has_backoff_policy,  # which only SQS can carry out
        "its queue has a low priority": consumed.priority < 0,  # the messages of other queues on SQS go first
        "it is delayed": bool(parameters.get("DelaySeconds")),
        "it is large": message_bytes(parameters) > MAX_BYTES,
        "its task is not registered here": acks_late is None,
        # Such a task begins only after its message is deleted, and so it would wait for its siblings.
        "its task is acknowledged early": acks_late is False,
        # Celery's worker would confuse it with the task that still runs and has the same id.
        "it is a retry": is_retry,
        "it has too many hops": parent.hops >= MAX_HOPS,
        "too many wait to begin": not consumed.has_room,  # other workers can take it from SQS
    }
    return next((objection for objection, applies in objections.items() if applies), "")


class HandedOffMessage(HeldMessage):
    """A message that a task of this worker published, and that this worker runs without SQS.

    It settles as any other message does, but it cannot be deleted or made visible. Its parent is told instead.
    """

    def __init__(
        self, holder: Holder, queue: Queue, parent: HeldMessage, parameters: dict[str, Any], task_id: str
    ) -> None:
        attributes = {"ApproximateReceiveCount": "1"}
        if group := parameters.get("MessageGroupId"):
            attributes["MessageGroupId"] = group
        received = {
            "Body": parameters["MessageBody"],
            "MessageId": task_id,
            "ReceiptHandle": f"handed off {next(_numbers)}",
            "Attributes": attributes,
            "MessageAttributes": parameters.get("MessageAttributes", {}),
        }
        super().__init__(holder, queue, received, parent.visibility_timeout)
        self.hops = parent.hops + 1
        self._parent = parent
        parent.add_child()

    def send(self) -> None:
        """Send it to its queue after it was released. Its parent is kept until SQS has confirmed it."""
        # The body is sent as it was published. Celery's worker may have changed what was decoded from it.
        copy = self.queue.copy_of(self.received, self.received["MessageAttributes"])
        self._parent.send_for_child(self.queue, copy, may_wait=False)

    def give_back(self, after: int) -> None:
        if self.is_open:
            self.delay(after)

    def _delete(self) -> None:
        self.stop_holding()
        self._parent.child_done()

    def _stay(self) -> None:
        self.stop_holding()
        self._parent.child_done(must_stay=True)
