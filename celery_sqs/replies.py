"""Sends the replies to remote commands from a separate thread, so that no caller can block a worker."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from kombu.log import get_logger

from celery_sqs.log import OnceAMinute
from celery_sqs.per_process import at_exit
from celery_sqs.sqs.errors import NO_SUCH_QUEUE, code_of

if TYPE_CHECKING:
    from celery_sqs.control_queues import ControlQueues

logger = get_logger(__name__)
complain = OnceAMinute(logger)

CAPACITY = 1000  # waiting replies; more would be too late anyway, since callers wait for 1 s by default
EXIT_FLUSH_SECONDS = 2.0


class ReplySender:
    """Tries to send each reply once, and drops it if its caller no longer exists or SQS refuses it.

    Errors are not raised to kombu. It publishes a reply with `retry=True` and no limit (`Mailbox._publish_reply`), so
    an error would keep the consumer's loop busy for as long as it lasts.
    """

    def __init__(self, queues: ControlQueues) -> None:
        self._queues = queues
        self._changed = threading.Condition()
        self._waiting: deque[tuple[str, str, str]] = deque()
        self._sending = False
        self._thread: threading.Thread | None = None
        at_exit(self.exit)

    def add(self, exchange: str, routing_key: str, body: str) -> None:
        """Queue the reply for sending, without waiting. Drop it if 1000 replies are already waiting."""
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
        """Wait up to 2 seconds for the replies that have not been sent yet."""
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
            code = code_of(error)
            if code in NO_SUCH_QUEUE:
                logger.info("dropped a reply to a remote command: its caller is gone")
            else:
                complain("dropped a reply to a remote command: SQS answered %s", code)
        except BotoCoreError as error:
            complain("dropped a reply to a remote command: SQS cannot be reached (%s)", type(error).__name__)
        except Exception:  # if this thread ended, nobody would get a reply any more
            logger.exception("dropped a reply to a remote command")
