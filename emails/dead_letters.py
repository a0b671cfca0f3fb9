"""Reads the dead letters of a stage, sends them back to the queue they came from, or deletes them."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from celery_sqs.sqs.batches import MAX_ENTRIES, pack, until_confirmed
from celery_sqs.sqs.dead_letters import message_bytes, task_id_of
from celery_sqs.sqs.errors import STALE_HANDLE
from emails.printable import printable
from emails.resources import find_queue
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from mypy_boto3_sqs import SQSClient

    from celery_sqs.sqs.queue import Queue, ReceivedMessage
    from settings import Settings

logger = logging.getLogger(__name__)

MAX_RECEIVES_REASON = "MaxReceives"  # SQS moved the message itself, and gives no reason
MAX_RECEIVES_DETAIL = "received too often: it may crash workers"
OURS = frozenset({"Reason", "Detail"})  # the message attributes that we add

# Long enough to read about ten thousand messages. If a command is killed, its messages are visible again after this.
VISIBILITY_SECONDS = 300
# Only a long poll asks all of SQS's servers (SQS Developer Guide, "Short and long polling").
WAIT_SECONDS = 1


@dataclass(frozen=True)
class ReceivedDeadLetter:
    """A message from a dead-letter queue. Its body and the producer's attributes may be private."""

    queue: str
    message: ReceivedMessage = field(repr=False)
    task_id: str = ""  # of a message that Celery wrote; the log has it for one that was handed off

    @property
    def message_id(self) -> str:
        return str(self.message["MessageId"])

    @property
    def reason(self) -> str:
        return self._text("Reason") or MAX_RECEIVES_REASON

    @property
    def detail(self) -> str:
        return self._text("Detail") or ("" if self._text("Reason") else MAX_RECEIVES_DETAIL)

    @property
    def body(self) -> str:
        return str(self.message["Body"])

    @property
    def attributes(self) -> dict[str, dict[str, Any]]:
        """The producer's message attributes."""
        found: dict[str, dict[str, Any]] = self.message.get("MessageAttributes", {})
        return {name: value for name, value in found.items() if name not in OURS}

    @property
    def sent_at(self) -> float:
        """When it came to this queue, in epoch seconds. If SQS itself moved it, this is when it was first sent."""
        return int(self.message["Attributes"]["SentTimestamp"]) / 1000

    def _text(self, name: str) -> str:
        """Return an attribute as printable text, because anybody who may send to the queue can write it."""
        return printable(self.message.get("MessageAttributes", {}).get(name, {}).get("StringValue", ""))


class DeadLetterQueue:
    """A queue's dead letters. The messages that are read are hidden from others until the `with` block ends.

    SQS does not show every message: those that another reader holds are missing, and so is the rest of a FIFO queue's
    message group once its first ten messages are held. Methods raise botocore's errors unless they say otherwise.
    """

    def __init__(self, source: Queue, queue: Queue, *, holds_tasks: bool) -> None:
        self._holds_tasks = holds_tasks  # whether Celery writes its messages, and not a producer
        self.source = source.name
        self.name = queue.name
        self._source = source
        self._queue = queue
        self._held: dict[str, str] = {}  # receipt handles by MessageId
        # Ctrl-C interrupts only the main thread. Another thread receives, so that every message that SQS hands over is
        # recorded in `_held`.
        self._receiver = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._receiver.shutdown()
        entries = [{"ReceiptHandle": handle, "VisibilityTimeout": 0} for handle in self._held.values()]
        self._held.clear()
        codes: list[str] = []
        try:
            for batch in pack(entries, size=lambda _: 0):
                codes += self._queue.change_visibility_batch(batch)
        except (BotoCoreError, ClientError) as refused:
            codes += [type(refused).__name__] * (len(entries) - len(codes))
        # If a handle is stale, we do not hold the message any more.
        if kept := [code for code in codes if code and code not in STALE_HANDLE]:
            text = "%d messages of %s stay hidden for up to %d seconds: SQS did not make them visible again (%s)"
            logger.warning(text, len(kept), self.name, VISIBILITY_SECONDS, kept[0])

    def count(self) -> int:
        """Return about how many messages there are, as SQS counts them, including those that others hold."""
        depths = self._queue.depths()
        return depths.ready + depths.in_flight

    def read(self, message_id: str = "", reason: str = "") -> Iterator[list[ReceivedDeadLetter]]:
        """Yield each message once, in lists of up to ten. With an id or a reason, yield only those that match.

        `message_id` may also be the id of a task.
        """
        seen: set[str] = set()
        while messages := self._receiver.submit(self._receive).result():
            new = [message for message in messages if message["MessageId"] not in seen]
            if not new:  # messages come back: reading took longer than they stay hidden
                return
            seen |= {message["MessageId"] for message in new}
            letters = [self._letter(message) for message in new]
            chosen = [letter for letter in letters if message_id in ("", letter.message_id, letter.task_id)]
            yield [letter for letter in chosen if reason in ("", letter.reason)]
            if message_id in seen:
                return

    def redrive(
        self, why_useless: Callable[[ReceivedDeadLetter], str], message_id: str = "", reason: str = ""
    ) -> Iterator[tuple[ReceivedDeadLetter, str]]:
        """Move messages to the queue they came from: send each one, wait for the confirmation, then delete it here.

        With an id or a reason, only those that match are moved. Yields each message and why it stays, or "" if it was
        moved. A message stays if `why_useless` gives a reason. A message that arrives while this runs is left for the
        next redrive, unless `message_id` names it: otherwise a message that workers refuse would go back and forth.
        If this is interrupted, a message may be on both queues, but it is always on at least one.
        """
        began = time.time()
        for letters in self.read(message_id, reason):
            useful = []
            for letter in letters:
                if why := why_useless(letter):
                    yield letter, why
                elif message_id or letter.sent_at <= began:
                    useful.append(letter)
            yield from self._move(useful)

    def delete(self, message_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Delete messages that were read. Yields each id and SQS's error code, or "" if the message was deleted."""
        ids = list(message_ids)
        left = iter(ids)
        for batch in pack([{"ReceiptHandle": self._held[message_id]} for message_id in ids], size=lambda _: 0):
            codes = until_confirmed(self._queue.delete_batch, batch)
            for message_id, code in zip(islice(left, len(batch)), codes, strict=True):
                if not code:
                    del self._held[message_id]
                yield message_id, code

    def _receive(self) -> list[ReceivedMessage]:
        messages = self._queue.receive(MAX_ENTRIES, WAIT_SECONDS, VISIBILITY_SECONDS)
        self._held |= {message["MessageId"]: message["ReceiptHandle"] for message in messages}
        return messages

    def _letter(self, message: ReceivedMessage) -> ReceivedDeadLetter:
        return ReceivedDeadLetter(self.name, message, task_id_of(message["Body"]) if self._holds_tasks else "")

    def _move(self, letters: list[ReceivedDeadLetter]) -> Iterator[tuple[ReceivedDeadLetter, str]]:
        left = iter(letters)
        copies = [self._source.copy_of(letter.message, letter.attributes) for letter in letters]
        for batch in pack(copies, size=message_bytes):
            sent: dict[str, ReceivedDeadLetter] = {}
            codes = until_confirmed(self._source.send_batch, batch)
            for letter, code in zip(islice(left, len(batch)), codes, strict=True):
                if code:
                    yield letter, f"SQS did not accept it: {code}"
                else:
                    sent[letter.message_id] = letter
            for message_id, code in self.delete(sent):
                why = f"it was sent to {self.source}, but SQS did not delete it here: {code}" if code else ""
                yield sent[message_id], why


def dead_letter_queues(sqs: SQSClient, settings: Settings) -> Iterator[DeadLetterQueue]:
    """Yield the dead-letter queue of every queue of the stage.

    Raises:
        ResourcesMissing: a queue does not exist.
    """
    for source in settings.queues:
        queues = (find_queue(sqs, name) for name in (source, dead_letter_queue(source)))
        yield DeadLetterQueue(*queues, holds_tasks=source == settings.tasks_queue)


def dead_letters(sqs: SQSClient, settings: Settings) -> Iterator[ReceivedDeadLetter]:
    """Yield the messages in the dead-letter queues. Every message stays there, and is visible again at the end."""
    for queue in dead_letter_queues(sqs, settings):
        with queue:
            for letters in queue.read():
                yield from letters
