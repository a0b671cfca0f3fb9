"""The dead letters of a stage: looked at, sent back to the queue they came from, or deleted."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import BotoCoreError, ClientError

from celery_sqs.sqs.batches import MAX_ENTRIES, pack, until_confirmed
from celery_sqs.sqs.dead_letters import message_bytes
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

MAX_RECEIVES_REASON = "MaxReceives"  # SQS moved the message itself, and SQS gives no reason
MAX_RECEIVES_DETAIL = "received too often: it may stop workers"
OURS = frozenset({"Reason", "Detail"})  # of the message's attributes

# Long enough to look at some ten thousand; what a killed command held comes back after it.
VISIBILITY_SECONDS = 300
# SQS asks all its servers only in a long poll (SQS Developer Guide, "Short and long polling").
WAIT_SECONDS = 1


@dataclass(frozen=True)
class ReceivedDeadLetter:
    """A message nobody could use. Its body and its other attributes may be private."""

    queue: str
    message: ReceivedMessage = field(repr=False)

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
        """The producer's."""
        found: dict[str, dict[str, Any]] = self.message.get("MessageAttributes", {})
        return {name: value for name, value in found.items() if name not in OURS}

    @property
    def sent_at(self) -> float:
        """When it came to the queue, in epoch seconds; of one that SQS moved itself, when it was first sent."""
        return int(self.message["Attributes"]["SentTimestamp"]) / 1000

    def _text(self, name: str) -> str:
        """An attribute, fit for a terminal: whoever may send to the queue writes it."""
        return printable(self.message.get("MessageAttributes", {}).get(name, {}).get("StringValue", ""))


class DeadLetterQueue:
    """A queue's dead letters. What is read is hidden from others, and visible again when the `with` ends.

    What SQS shows is approximate: not what another reader holds, and of a FIFO queue no more of a message group whose
    first ten are held. Methods raise botocore's errors where nothing else is said.
    """

    def __init__(self, source: Queue, queue: Queue) -> None:
        self.source = source.name
        self.name = queue.name
        self._source = source
        self._queue = queue
        self._held: dict[str, str] = {}  # receipt handles by MessageId
        # Ctrl-C reaches the main thread alone: received in another, what SQS has handed over is held in any case.
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
        # A stale handle's message is not ours any more.
        if kept := [code for code in codes if code and code not in STALE_HANDLE]:
            text = "%d messages of %s are hidden for up to %d seconds more: SQS did not give them back (%s)"
            logger.warning(text, len(kept), self.name, VISIBILITY_SECONDS, kept[0])

    def count(self) -> int:
        """About how many there are, by SQS's own count, with those that others hold."""
        depths = self._queue.depths()
        return depths.ready + depths.in_flight

    def read(self, message_id: str = "", reason: str = "") -> Iterator[list[ReceivedDeadLetter]]:
        """All, or those of the id or the reason, each once, as SQS gives them: up to ten at a time."""
        seen: set[str] = set()
        while messages := self._receiver.submit(self._receive).result():
            new = [message for message in messages if message["MessageId"] not in seen]
            if not new:  # the first come round again: this took longer than they were hidden
                return
            seen |= {message["MessageId"] for message in new}
            letters = [ReceivedDeadLetter(self.name, message) for message in new]
            yield [
                letter for letter in letters if message_id in ("", letter.message_id) and reason in ("", letter.reason)
            ]
            if message_id in seen:
                return

    def redrive(
        self, why_useless: Callable[[ReceivedDeadLetter], str], message_id: str = "", reason: str = ""
    ) -> Iterator[tuple[ReceivedDeadLetter, str]]:
        """Move all, or those of the id or the reason, to the queue they came from: send, see it confirmed, delete.

        Gives each and why it stays, which is empty where it went. One that `why_useless` speaks against stays. One that
        comes while this runs waits for the next redrive, or two would play ball with a message that workers refuse.
        Interrupted at any point, a message may be on both queues, and is on one.
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
        """Delete messages that were read. Gives each id and SQS's error code, which is empty where it is gone."""
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

    def _move(self, letters: list[ReceivedDeadLetter]) -> Iterator[tuple[ReceivedDeadLetter, str]]:
        left = iter(letters)
        copies = [self._source.copy_of(letter.message, letter.attributes) for letter in letters]
        for batch in pack(copies, size=message_bytes):
            sent: dict[str, ReceivedDeadLetter] = {}
            codes = until_confirmed(self._source.send_batch, batch)
            for letter, code in zip(islice(left, len(batch)), codes, strict=True):
                if code:
                    yield letter, f"SQS did not take it: {code}"
                else:
                    sent[letter.message_id] = letter
            for message_id, code in self.delete(sent):
                why = f"it is on {self.source}, but SQS did not delete it here: {code}" if code else ""
                yield sent[message_id], why


def dead_letter_queues(sqs: SQSClient, settings: Settings) -> Iterator[DeadLetterQueue]:
    """Each queue's of the stage.

    Raises:
        ResourcesMissing
    """
    for source in settings.queues:
        queues = (find_queue(sqs, name) for name in (source, dead_letter_queue(source)))
        yield DeadLetterQueue(*queues)


def dead_letters(sqs: SQSClient, settings: Settings) -> Iterator[ReceivedDeadLetter]:
    """What lies in the dead-letter queues now; every message stays there, and is visible again at the end."""
    for queue in dead_letter_queues(sqs, settings):
        with queue:
            for letters in queue.read():
                yield from letters
