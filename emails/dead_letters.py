"""The dead letters of a stage: looked at, sent back to the queue they came from, or deleted."""

from __future__ import annotations

import base64
import json
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
from emails.message import InvalidMessage, check_email_id, parse_message
from emails.printable import printable
from emails.resources import find_queue
from emails.status import EmailStatus, status_of
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from mypy_boto3_sqs import SQSClient

    from celery_sqs.sqs.queue import Queue, ReceivedMessage
    from emails.store import EmailStore
    from settings import Settings

logger = logging.getLogger(__name__)

MAX_RECEIVES_REASON = "MaxReceives"  # SQS moved the message itself, and SQS gives no reason
MAX_RECEIVES_DETAIL = "received too often: it may stop workers"
OURS = frozenset({"Reason", "Detail"})  # of the message's attributes

# Long enough to look at some ten thousand; what a killed command held comes back after it.
VISIBILITY_SECONDS = 300
# SQS asks all its servers only in a long poll (SQS Developer Guide, "Short and long polling").
WAIT_SECONDS = 1

# Those of tasks/pipeline.py whose first argument is an email_id.
EMAIL_TASKS = frozenset({"tasks.process_email", "tasks.load_email", "tasks.send_email"})
# A message for a row of any other status does nothing (DESIGN, "already <status>").
TO_BE_SENT = frozenset({EmailStatus.PENDING, EmailStatus.SENDING, None})


@dataclass(frozen=True)
class DeadLetter:
    """A message nobody could use. Its body and its other attributes may be private."""

    queue: str
    message: ReceivedMessage = field(repr=False)
    holds_task: bool = False  # Celery wrote the body, not a producer

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
    def email_id(self) -> str:
        """The email that it was to send, or nothing where the body does not say so."""
        try:
            return _task_email_id(self.body) if self.holds_task else parse_message(self.body)
        except InvalidMessage:
            return ""

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

    def __init__(self, source: Queue, queue: Queue, *, holds_tasks: bool) -> None:
        self.source = source.name
        self.name = queue.name
        self._source = source
        self._queue = queue
        self._holds_tasks = holds_tasks
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

    def read(self, message_id: str = "", reason: str = "") -> Iterator[list[DeadLetter]]:
        """All, or those of the id or the reason, each once, as SQS gives them: up to ten at a time."""
        seen: set[str] = set()
        while messages := self._receiver.submit(self._receive).result():
            new = [message for message in messages if message["MessageId"] not in seen]
            if not new:  # the first come round again: this took longer than they were hidden
                return
            seen |= {message["MessageId"] for message in new}
            letters = [DeadLetter(self.name, message, self._holds_tasks) for message in new]
            yield [
                letter for letter in letters if message_id in ("", letter.message_id) and reason in ("", letter.reason)
            ]
            if message_id in seen:
                return

    def redrive(self, store: EmailStore, message_id: str = "", reason: str = "") -> Iterator[tuple[DeadLetter, str]]:
        """Move all, or those of the id or the reason, to the queue they came from: send, see it confirmed, delete.

        Gives each and why it stays, which is empty where it went. One whose row is not to be sent stays, since workers
        would drop it without a word. One that comes while this runs waits for the next redrive, or two would play ball
        with a message that workers refuse. Interrupted at any point, a message may be on both queues, and is on one.

        Raises:
            StoreUnavailable, StoreRefused
        """
        began = time.time()
        for letters in self.read(message_id, reason):
            useful = []
            for letter in letters:
                if why := _why_useless(letter, store):
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

    def _move(self, letters: list[DeadLetter]) -> Iterator[tuple[DeadLetter, str]]:
        left = iter(letters)
        copies = [self._source.copy_of(letter.message, letter.attributes) for letter in letters]
        for batch in pack(copies, size=message_bytes):
            sent: dict[str, DeadLetter] = {}
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
        yield DeadLetterQueue(*queues, holds_tasks=source == settings.tasks_queue)


def dead_letters(sqs: SQSClient, settings: Settings) -> Iterator[DeadLetter]:
    """What lies in the dead-letter queues now; every message stays there, and is visible again at the end."""
    for queue in dead_letter_queues(sqs, settings):
        with queue:
            for letters in queue.read():
                yield from letters


def _why_useless(letter: DeadLetter, store: EmailStore) -> str:
    """Why a worker would do nothing for this message, and what helps; or nothing."""
    email_id = letter.email_id
    row = store.get(email_id) if email_id else None
    if row is None or (status := status_of(row)) in TO_BE_SENT:
        return ""
    discard = f"`email-service dead-letters discard {letter.message_id}`"
    if status in (EmailStatus.FAILED, EmailStatus.UNKNOWN):
        why = row.get("FailureReason") or "it does not say why"
        help_ = f"`email-service resolve {email_id} --resend` does, then {discard}"
        return f"{email_id} is {status} ({why}), so a redrive sends nothing: {help_}"
    return f"{email_id} is {status}, so a redrive sends nothing: {discard}"


def _task_email_id(body: str) -> str:
    """The email_id in a Celery message for a task of ours.

    Source: Celery's "Message Protocol", version 2, as kombu's virtual transports write it.

    Raises:
        InvalidMessage
    """
    try:
        message = _json(body)
        args, kwargs, _ = _json(message["body"])
        if message["headers"]["task"] in EMAIL_TASKS:
            return check_email_id(args[0] if args else kwargs["email_id"])
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    raise InvalidMessage("NoEmailId", "it is no message for a task that sends an email")


def _json(text: str) -> Any:
    """The value of JSON text, which a program with Celery's own settings wraps in base64."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(base64.b64decode(text, validate=True))
