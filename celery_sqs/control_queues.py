"""The control queues, which carry events, remote commands and the replies to them.

Each queue belongs to the process that consumes it. Its name begins with the name of the exchange that it is bound to,
which is how other processes find it. A process deletes its queues when it exits. If a process crashes, `reap` deletes
its queues later.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from kombu.exceptions import OperationalError
from kombu.log import get_logger

from celery_sqs.log import OnceAMinute
from celery_sqs.per_process import at_exit
from celery_sqs.sqs import leased_queues
from celery_sqs.sqs.errors import NO_SUCH_QUEUE, code_of
from celery_sqs.sqs.queue import Queue, ReceivedMessage

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)
complain = OnceAMinute(logger)

# A control message is useless after a minute. This is also the shortest retention that SQS allows (CreateQueue,
# MessageRetentionPeriod).
RETENTION_SECONDS = 60

RENEW_EVERY_SECONDS = 600

reap = leased_queues.reap  # this is its public name

# A remote command is ignored if it has expired this many seconds ago. The grace period allows for clocks that differ
# and for SQS's delivery time.
COMMAND_GRACE_SECONDS = 5
REMEMBERED = 1000  # how many messages are remembered, so that a second delivery is recognized
REPLY_URLS = 100  # how many callers' queue URLs are kept; each `celery inspect` is a new caller

SENDERS = 10  # threads, each of which sends a command to one worker at a time
SEND_ATTEMPTS = 3  # a lost command, such as a revoke, matters enough to retry
SEND_AGAIN_SECONDS = 0.2

# This is short, so that a long poll left over from an earlier call cannot take the next call's replies.
REPLY_WAIT_SECONDS = 2


class ControlQueue(Queue):
    """A control queue that this process consumes."""

    def __init__(self, client: Callable[[], Any], exchange: str, make: Callable[[], tuple[str, str]]) -> None:
        super().__init__(exchange, "", client)
        self.exchange = exchange
        self._make = make
        self._seen: OrderedDict[int, None] = OrderedDict()

    @property
    def is_for_commands(self) -> bool:
        return self.exchange.endswith(".pidbox") and not is_for_replies(self.exchange)

    def is_timely(self, payload: dict[str, Any]) -> bool:
        """Whether the consumer should get the message.

        It should not if the message was delivered before, or if it is a command past its `expires`, which kombu does
        not check.
        """
        headers = payload["headers"]
        expires = headers.get("expires")
        is_late = isinstance(expires, int | float) and expires + COMMAND_GRACE_SECONDS < time.time()
        if self.is_for_commands and expires and is_late:
            logger.warning("ignored a remote command that arrived after it had expired")
            return False
        # If one of several queues does not accept a command, kombu sends it to all of them again with another delivery
        # tag. Senders older than this version set no message id.
        content = (str(payload.get("body")), str(headers.get("clock")), str(expires))
        message = hash(str(payload["properties"].get("message_id") or content))
        is_new = message not in self._seen
        self._seen[message] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return is_new

    def make(self) -> None:
        """Create the queue in SQS. Each call may use another name."""
        self.name, self.url = self._make()

    def receive(self, count: int, wait_seconds: int, visibility_timeout: int) -> list[ReceivedMessage]:
        if not self.url:
            self.make()
        if is_for_replies(self.exchange):
            wait_seconds = min(wait_seconds, REPLY_WAIT_SECONDS)
        return super().receive(count, wait_seconds, visibility_timeout)


class ControlQueues:
    """This process's control queues, and access to those of other processes. It is thread-safe.

    All names begin with `prefix`. `client` has time-outs too short for long polls, so those use `poll_client`.
    `attributes` and `tags` are those of the broker's other queues. Methods raise botocore's errors.
    """

    def __init__(
        self,
        prefix: str,
        client: Callable[[], Any],
        poll_client: Callable[[], Any],
        attributes: dict[str, str],
        tags: dict[str, str],
    ) -> None:
        self.prefix = prefix
        self._client = client
        self._poll_client = poll_client
        # Control queues are standard queues without a redrive policy.
        self._attributes = {name: value for name, value in attributes.items() if not _is_of_other_queues(name)}
        self._tags = tags
        self._lock = threading.RLock()
        self._own: dict[str, ControlQueue] = {}
        self._reply_urls: dict[str, str] = {}
        self._keeper: threading.Thread | None = None
        at_exit(self.exit)

    def open(self, queue: str, exchange: str, routing_key: str) -> None:
        """Create the queue that kombu calls `queue`, bound to the exchange, unless this process already has it."""
        with self._lock:
            if queue not in self._own:
                make = partial(self._create, exchange, routing_key)
                self._own[queue] = own = ControlQueue(self._poll_client, exchange, make)
                try:
                    own.make()
                except (BotoCoreError, ClientError) as error:
                    if not own.is_for_commands:
                        del self._own[queue]
                        raise
                    # The worker should still work. Its poller creates the queue as soon as that is possible.
                    complain("remote control does not work, because its queue cannot be created: %r", error)
                if self._keeper is None:
                    self._keeper = threading.Thread(target=self._keep, name="control queues", daemon=True)
                    self._keeper.start()

    def get(self, queue: str) -> ControlQueue | None:
        """Return this process's queue that kombu calls `queue`, or None if there is none."""
        return self._own.get(queue)

    def close(self, queue: str) -> None:
        """Delete the queue that kombu calls `queue`."""
        with self._lock:
            if own := self._own.pop(queue, None):
                self._delete(own)

    def bound_to(self, exchange: str) -> list[Queue]:
        """Return the queues of all processes that are bound to the exchange, as ListQueues lists them now."""
        return [
            Queue(name, url, self._client) for name, url in leased_queues.find(self._client(), self.prefix + exchange)
        ]

    def broadcast(self, exchange: str, body: str) -> None:
        """Send to every queue that is bound to the exchange, and wait for SQS's confirmations.

        If a queue does not accept the message, that is logged, and the other queues still get it.

        Raises:
            OperationalError: SQS does not list the queues, or no queue accepted the message. kombu's mailbox publishes
                commands with unlimited retries, but does not retry after this error.
        """
        try:
            queues = self.bound_to(exchange)
        except (BotoCoreError, ClientError) as error:
            raise OperationalError(f"cannot find the queues of {exchange}: {error}") from error
        with ThreadPoolExecutor(SENDERS, "broadcast") as senders:
            problems = [problem for problem in senders.map(partial(self._try_to_send, body), queues) if problem]
        if problems and len(problems) == len(queues):
            raise OperationalError(f"no queue of {exchange} accepts messages: {problems[0]}")

    def reply(self, exchange: str, routing_key: str, body: str) -> None:
        """Send a reply to the queue of the caller that waits for it. The queue is never created here."""
        name = leased_queues.queue_name(self.prefix + exchange, routing_key)
        try:
            if name not in self._reply_urls:
                if len(self._reply_urls) >= REPLY_URLS:
                    self._reply_urls.clear()
                self._reply_urls[name] = self._client().get_queue_url(QueueName=name)["QueueUrl"]
            self._client().send_message(QueueUrl=self._reply_urls[name], MessageBody=body)
        except ClientError:
            self._reply_urls.pop(name, None)
            raise

    def renew(self) -> None:
        """Renew the leases of this process's queues, and replace queues that somebody has deleted."""
        with self._lock:
            for own in self._own.values():
                if not own.url:
                    continue
                try:
                    self._client().tag_queue(QueueUrl=own.url, Tags=leased_queues.lease())
                except (BotoCoreError, ClientError) as error:
                    if code_of(error) in NO_SUCH_QUEUE:
                        self._make_anew(own)
                    else:
                        complain("cannot renew the lease of %s: %r", own.name, error)

    @staticmethod
    def _make_anew(own: ControlQueue) -> None:
        logger.warning("somebody deleted %s, which this process consumes; creating another", own.name)
        try:
            own.make()
        except (BotoCoreError, ClientError) as error:
            complain("cannot create another queue for %s: %r", own.name, error)

    def exit(self) -> None:
        """Delete this process's queues."""
        with self._lock:
            for own in self._own.values():
                self._delete(own)
            self._own.clear()

    def _try_to_send(self, body: str, queue: Queue) -> str:
        """Send the message, and return what went wrong, or "" for success."""
        for attempt in range(1, SEND_ATTEMPTS + 1):
            try:
                queue.send({"MessageBody": body})
            except (BotoCoreError, ClientError) as error:
                if code_of(error) in NO_SUCH_QUEUE:  # its owner has just exited
                    return ""
                problem = str(error)
                if attempt < SEND_ATTEMPTS:
                    threading.Event().wait(SEND_AGAIN_SECONDS * attempt)
            else:
                return ""
        complain("%s did not accept a remote command: %s", queue.name, problem)
        return problem

    def _create(self, exchange: str, routing_key: str) -> tuple[str, str]:
        # SQS refuses a name for a minute after its queue was deleted (QueueDeletedRecently), so each queue gets a new
        # name. A reply queue is the exception, because the sender must be able to derive its name.
        nonce = routing_key if is_for_replies(exchange) else uuid.uuid4().hex
        name = leased_queues.queue_name(self.prefix + exchange, nonce)
        tags = self._tags | leased_queues.owner_tags(exchange)
        attributes = self._attributes | {"MessageRetentionPeriod": str(RETENTION_SECONDS)}
        answer = self._client().create_queue(QueueName=name, Attributes=attributes, tags=tags)
        return name, answer["QueueUrl"]

    def _delete(self, own: ControlQueue) -> None:
        try:
            if own.url:
                self._client().delete_queue(QueueUrl=own.url)
        except (BotoCoreError, ClientError) as error:
            if code_of(error) not in NO_SUCH_QUEUE:
                complain("cannot delete %s: %r; its lease ends within an hour", own.name, error)

    def _keep(self) -> None:
        while True:
            threading.Event().wait(RENEW_EVERY_SECONDS)
            self.renew()


def is_for_replies(exchange: str) -> bool:
    """Whether this is the exchange for replies to a kombu mailbox (`Mailbox.reply_exchange_fmt`)."""
    return exchange.startswith("reply.") and exchange.endswith(".pidbox")


def _is_of_other_queues(attribute: str) -> bool:
    return attribute.startswith(("Redrive", "MessageRetention")) or "Fifo" in attribute or "Dedup" in attribute
