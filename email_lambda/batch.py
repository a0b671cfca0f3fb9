"""An event with up to ten messages: each is taken up by itself, and what is not settled comes back by itself."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any, Protocol

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    SqsFifoPartialProcessor,
    process_partial_response,
)
from structlog.contextvars import bind_contextvars, clear_contextvars

from celery_sqs.sqs.dead_letters import Reason
from celery_sqs.sqs.queue import queue_url
from email_lambda.message import Message, Wait
from emails import waits
from emails.message import InvalidMessage
from emails.resources import ResourcesMissing
from emails.sender import EmailNotFound, Finished, Later
from emails.store import ClaimUnanswered, StoreUnavailable
from emails.unforeseen import place
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_sqs import SQSClient

    from emails.claim_tokens import Tokens

logger = logging.getLogger(__name__)

# What is left after a message for its record, for its copy, and for the answer to Lambda.
TO_SETTLE_SECONDS = 5
# SQS hides a message for 12 hours after its receive at most (SQS Developer Guide, "Amazon SQS visibility timeout").
LONGEST_HIDDEN_SECONDS = 11 * 3600
RETRY_SECONDS = 0.5

Answer = dict[str, Any]


class TimeoutTooShort(Exception):
    """The function may end before a send does: no message could ever be taken up."""


class ComesBack(Exception):
    """The message is not settled: Lambda leaves it on its queue."""


class Step(Protocol):
    """What is done about a message's body.

    It may raise InvalidMessage and whatever Sender and Tracking raise, and is not called where less than `longest`
    seconds are left.
    """

    longest: float

    def __call__(self, body: str, ends_at: float, tokens: Tokens) -> Later | Finished:
        """Do it before `ends_at` (epoch seconds), or Later. `tokens` are those that the message carries."""
        ...


class Batch:
    """A Lambda function over SQS that reports which messages of an event are to come back."""

    def __init__(self, step: Step, sqs: SQSClient, *, missing_row_wait: float) -> None:
        self._step = step
        self._sqs = sqs
        self._missing_row_wait = missing_row_wait
        self._urls: dict[str, str] = {}

    def __call__(self, event: dict[str, Any], context: LambdaContext) -> Answer:
        if not event["Records"]:  # Powertools takes none for all
            return {"batchItemFailures": []}
        ends_at = time.time() + context.get_remaining_time_in_millis() / 1000 - TO_SETTLE_SECONDS
        if ends_at - time.time() < self._step.longest:
            raise TimeoutTooShort(
                f"The function's timeout should be at least {self._step.longest + TO_SETTLE_SECONDS:g} seconds: "
                f"a send may take {self._step.longest:g}."
            )

        def handle(record: SQSRecord) -> None:
            clear_contextvars()
            message = Message(record.raw_event)
            bind_contextvars(
                request_id=context.aws_request_id, message_id=message.wait.message_id, attempt=message.wait.attempt
            )
            try:
                self._handle(message, ends_at)
            except ComesBack as error:
                logger.info("%s", error)
                raise
            except Exception as error:
                logger.error("stays on its queue: %s", place(error))
                raise

        is_fifo = Message(event["Records"][0]).is_fifo
        processor = SqsFifoPartialProcessor(skip_group_on_error=True) if is_fifo else BatchProcessor(EventType.SQS)
        # An event of which nothing was settled is an answer, no error: that would have Lambda poll more slowly.
        processor.raise_on_entire_batch_failure = False
        try:
            return dict(process_partial_response(event, handle, processor, context))
        finally:
            clear_contextvars()

    def _handle(self, message: Message, ends_at: float) -> None:
        if ends_at - time.time() < self._step.longest:
            raise ComesBack("stays on its queue: no time is left for it")
        missing_since, tokens = None, message.tokens
        outcome: Later | Finished | Reason
        try:
            outcome = self._take_step(message, ends_at)
        except InvalidMessage as error:
            outcome = Reason(error.reason, error.detail)
        except EmailNotFound:
            missing_since = message.wait.missing_since or time.time()
            outcome = waits.for_row(time.time() - missing_since, self._missing_row_wait)
        except StoreUnavailable as error:
            outcome = waits.for_store(message.wait.attempt, str(error))
            tokens = error.tokens if isinstance(error, ClaimUnanswered) else tokens
        except Exception as error:
            # Its text may quote what the code worked on.
            name = type(error).__name__
            logger.exception("the function raised %s", name)
            outcome = Reason(name, f"the function raised {name}; its log has the rest")
        if isinstance(outcome, Finished):
            logger.info("%s", outcome.outcome)
        elif isinstance(outcome, Reason):
            self._bury(message, outcome)
        elif message.is_fifo:
            self._hide(message, outcome)
        else:
            wait = Wait(message.wait.message_id, message.wait.attempt + 1, missing_since)
            self._put_off(message, outcome, message.copy(wait, tokens))

    def _take_step(self, message: Message, ends_at: float) -> Later | Finished:
        """On FIFO no copy can carry a token, so a claim that got no answer is taken over here, while time is left."""
        tokens = message.tokens
        while True:
            try:
                return self._step(message.body, ends_at, tokens)
            except StoreUnavailable as error:
                tokens = error.tokens if isinstance(error, ClaimUnanswered) else tokens
                if not (message.is_fifo and tokens) or ends_at - time.time() < self._step.longest + RETRY_SECONDS:
                    raise
                time.sleep(RETRY_SECONDS)

    def _put_off(self, message: Message, later: Later, copy: dict[str, Any] | None) -> None:
        """Send the delayed copy. The message itself is done once SQS has confirmed that."""
        if copy is None:
            raise ComesBack("stays on its queue, since it is too large to carry how long it has waited")
        seconds = math.ceil(min(max(later.seconds, 0), waits.LONGEST_SECONDS))
        self._sqs.send_message(QueueUrl=self._url(message.queue), DelaySeconds=seconds, **copy)
        logger.info("waits %.1f s: %s", later.seconds, later.reason)

    def _hide(self, message: Message, later: Later) -> None:
        """A copy would come after what follows it in its group: the message itself waits, and all that follow it."""
        self._sqs.change_message_visibility(
            QueueUrl=self._url(message.queue),
            ReceiptHandle=message.receipt_handle,
            VisibilityTimeout=math.ceil(min(max(later.seconds, 0), LONGEST_HIDDEN_SECONDS)),
        )
        raise ComesBack(f"waits {later.seconds:.1f} s: {later.reason}")

    def _bury(self, message: Message, reason: Reason) -> None:
        self._sqs.send_message(QueueUrl=self._url(dead_letter_queue(message.queue)), **message.dead_letter(reason))
        logger.warning("dead letter: %s: %s", *reason)

    def _url(self, queue: str) -> str:
        if queue not in self._urls:
            url = queue_url(self._sqs, queue)
            if url is None:
                raise ResourcesMissing(f"There is no queue {queue}: the function's stack makes it.")
            self._urls[queue] = url
        return self._urls[queue]
