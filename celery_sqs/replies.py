"""Replies to remote commands. They leave from a thread of their own, so that no caller can stop a worker."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from kombu.log import get_logger

from celery_sqs.log import OnceAMinute
from celery_sqs.per_process import at_exit
from celery_sqs.sqs.errors import NO_SUCH_QUEUE

if TYPE_CHECKING:
    from celery_sqs.control_queues import ControlQueues

logger = get_logger(__name__)
complain = OnceAMinute(logger)

CAPACITY = 1000  # replies that wait; a caller waits for one second unless it says otherwise
EXIT_FLUSH_SECONDS = 2.0


class ReplySender:
    """Sends each reply once, and drops it if its caller has gone or SQS refuses it.

    kombu publishes a reply with `retry=True` and no limit (`Mailbox._publish_reply`): an error that reached it would
    keep the consumer's loop busy for as long as the error lasts. So no error of a reply is raised to kombu.
    """

    def __init__(self, queues: ControlQueues) -> None:
        self._queues = queues
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, str, str]] = deque()
        self._sending = False
        self._thread: threading.Thread | None = None
        at_exit(self.exit)

    def add(self, exchange: str, routing_key: str, body: str) -> None:
        """Send the reply soon. Does not wait, and drops the reply if too many wait already."""
        with self._changed:
            if len(self._waiting) >= CAPACITY:
                complain("dropped a reply to a remote command: %d others wait to be sent", CAPACITY)
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="replies", daemon=True)
                self._thread.start()
            self._waiting.append((exchange, routing_key, body))
            self._changed.notify_all()

    def exit(self) -> None:
        """Wait a moment for the replies that are still to be sent."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._waiting or self._sending), EXIT_FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                reply = self._waiting.popleft()
                self._sending = True
            self._send(*reply)

    def _send(self, exchange: str, routing_key: str, body: str) -> None:
        try:
            self._queues.reply(exchange, routing_key, body)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in NO_SUCH_QUEUE:
                logger.info("dropped a reply to a remote command: its caller has gone")
            else:
                complain("dropped a reply to a remote command: SQS answers %s", code)
        except BotoCoreError as error:
            complain("dropped a reply to a remote command: SQS cannot be reached (%s)", type(error).__name__)
        except Exception:  # a thread that ends would answer nobody any more
            logger.exception("dropped a reply to a remote command")
