"""Handles an event of up to ten messages one by one. Only the messages that are not settled stay on their queue."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
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
from email_lambda.record import Record
from emails.logs import place
from emails.outcome import DeadLetter, Done, RetryLater
from emails.resources import ResourcesMissing
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from mypy_boto3_sqs import SQSClient

    from emails.outcome import Outcome
    from emails.steps import Carried

logger = logging.getLogger(__name__)

# The time that is left for recording the result of a message, sending its copy, and answering Lambda.
TO_SETTLE_SECONDS = 5
# SQS hides a message for at most 12 hours after it is received (SQS Developer Guide, "Amazon SQS visibility timeout").
LONGEST_HIDDEN_SECONDS = 11 * 3600
RETRY_SECONDS = 0.5


class TimeoutTooShort(Exception):
    """The function's timeout is shorter than a send may take, so no message could ever be handled."""


class NotSettled(Exception):
    """The message is not settled, so Lambda leaves it on its queue."""


class Step(Protocol):
    """What to do about a message's body. It is not called if less than `longest` seconds are left."""

    longest: float

    def __call__(self, body: str, carried: Carried, ends_at: float) -> Outcome:
        """Handle the body before `ends_at` (epoch seconds), or return RetryLater."""
        ...


class Batch:
    """A Lambda function for an SQS queue. It reports which messages of an event should stay on the queue."""

    def __init__(self, step: Step, sqs: SQSClient) -> None:
        self._step = step
        self._sqs = sqs
        self._urls: dict[str, str] = {}

    def __call__(self, event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        if not event["Records"]:  # Powertools raises for an event without messages
            return {"batchItemFailures": []}
        ends_at = time.time() + context.get_remaining_time_in_millis() / 1000 - TO_SETTLE_SECONDS
        if ends_at - time.time() < self._step.longest:
            raise TimeoutTooShort(
                f"The function's timeout should be at least {self._step.longest + TO_SETTLE_SECONDS:g} seconds: "
                f"a send may take {self._step.longest:g}."
            )

        def handle(record: SQSRecord) -> None:
            clear_contextvars()
            ours = Record(record.raw_event)
            bind_contextvars(
                request_id=context.aws_request_id, message_id=ours.wait.message_id, attempt=ours.wait.attempt
            )
            try:
                self._handle(ours, ends_at)
            except NotSettled as error:
                logger.info("%s", error)
                raise
            except Exception as error:
                logger.error("stays on its queue: %s", place(error))
                raise

        is_fifo = Record(event["Records"][0]).is_fifo
        processor = SqsFifoPartialProcessor(skip_group_on_error=True) if is_fifo else BatchProcessor(EventType.SQS)
        # Even if no message was settled, this answers and does not raise. After an error, Lambda polls more slowly.
        processor.raise_on_entire_batch_failure = False
        try:
            return dict(process_partial_response(event, handle, processor, context))
        finally:
            clear_contextvars()

    def _handle(self, record: Record, ends_at: float) -> None:
        if ends_at - time.time() < self._step.longest:
            raise NotSettled("stays on its queue, because there is not enough time left")
        try:
            outcome = self._take_step(record, ends_at)
        except Exception as error:
            # Only its type is named, because its text may quote what the code worked on.
            name = type(error).__name__
            logger.exception("the function raised %s", name)
            outcome = DeadLetter(Reason(name, f"the function raised {name}; its log has the rest"))
        match outcome:
            case Done():
                logger.log(outcome.level, "%s", outcome)
            case DeadLetter(reason):
                self._send_dead_letter(record, reason)
                logger.warning("%s", outcome)
            case RetryLater() if record.is_fifo:
                self._hide(record, outcome)
                raise NotSettled(str(outcome))
            case RetryLater():
                self._send_copy(record, outcome)
                logger.info("%s", outcome)

    def _take_step(self, record: Record, ends_at: float) -> Outcome:
        """Take the step. On a FIFO queue, also take over a claim that got no answer, as long as there is time.

        On other queues, a delayed copy carries the claim's token. A FIFO message has no copies.
        """
        carried = record.carried
        while True:
            outcome = self._step(record.body, carried, ends_at)
            if not (record.is_fifo and isinstance(outcome, RetryLater) and outcome.affects_all and outcome.tokens):
                return outcome
            if ends_at - time.time() < self._step.longest + RETRY_SECONDS:
                return outcome
            carried = replace(carried, tokens=outcome.tokens)
            time.sleep(RETRY_SECONDS)

    def _send_copy(self, record: Record, later: RetryLater) -> None:
        """Send the delayed copy. The message itself is done once SQS has confirmed the copy."""
        copy = record.copy(later)
        if copy is None:
            raise NotSettled("stays on its queue, because it is too large to carry how long it has waited")
        self._sqs.send_message(QueueUrl=self._url(record.queue), DelaySeconds=math.ceil(later.delay), **copy)

    def _hide(self, record: Record, later: RetryLater) -> None:
        """Hide the message, so that it and the rest of its group wait. A copy would go to the group's end."""
        self._sqs.change_message_visibility(
            QueueUrl=self._url(record.queue),
            ReceiptHandle=record.receipt_handle,
            VisibilityTimeout=math.ceil(min(max(later.seconds, 0), LONGEST_HIDDEN_SECONDS)),
        )

    def _send_dead_letter(self, record: Record, reason: Reason) -> None:
        self._sqs.send_message(QueueUrl=self._url(dead_letter_queue(record.queue)), **record.dead_letter(reason))

    def _url(self, queue: str) -> str:
        if queue not in self._urls:
            url = queue_url(self._sqs, queue)
            if url is None:
                raise ResourcesMissing(f"There is no queue {queue}: the function's stack creates it.")
            self._urls[queue] = url
        return self._urls[queue]
