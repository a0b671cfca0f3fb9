"""The tasks: a raw body → process_email → load_email → send_email."""

from __future__ import annotations

import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from celery.exceptions import Reject
from celery.signals import task_revoked
from celery.utils.log import get_task_logger
from structlog.contextvars import bind_contextvars

from celery_sqs import Reason
from celery_sqs.poller import pause
from emails import claim_tokens, waits
from emails.message import InvalidMessage, parse_message
from emails.sender import EXPIRED, EmailNotFound, Finished, Later, Sender
from emails.store import ClaimUnanswered, StoreRefused, StoreUnavailable
from settings import get_settings
from tasks.app import app

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.app.task import Task

    from emails.sender import Ready

logger = get_task_logger(__name__)

Outcome = TypeVar("Outcome", bound="Ready | Finished")

PAUSE_SECONDS = 10
# Of a task's message. Every copy keeps the header, even one that an older worker makes, which knows nothing of it.
CLAIM_TOKENS_HEADER = "claim_tokens"


@cache
def get_sender() -> Sender:
    """The process's own: its boto3 clients are thread-safe."""
    return Sender.from_settings(get_settings())


@app.task(name="tasks.bridge")
def bridge(body: str) -> None:
    """A body of the raw queue, whatever it is: celery_sqs makes it this task's argument."""
    try:
        email_id = parse_message(body)
    except InvalidMessage as error:
        raise Reject(Reason(error.reason, error.detail)) from None
    process_email.run(email_id)


@app.task(name="tasks.process_email")
def process_email(email_id: str) -> None:
    """Start an email on its way."""
    bind_contextvars(email_id=email_id)
    load_email.apply_async((email_id,), chain=[send_email.s()])


@app.task(name="tasks.load_email", bind=True, max_retries=None)
def load_email(self: Task, email_id: str, missing_since: float | None = None) -> str:
    """Read the row and judge it; send_email follows only where it may be sent."""
    outcome = _attempt(self, email_id, missing_since, get_sender().load)
    if isinstance(outcome, Finished):
        self.request.chain = None
        return outcome.outcome
    return email_id


@app.task(name="tasks.send_email", bind=True, max_retries=None)
def send_email(self: Task, email_id: str, missing_since: float | None = None) -> str:
    """Claim the row, send what it says, record what became of it."""
    tokens = claim_tokens.from_text(self.request.get(CLAIM_TOKENS_HEADER))
    outcome = _attempt(self, email_id, missing_since, partial(get_sender().send, tokens=tokens))
    return outcome.outcome


@task_revoked.connect
def explain_revoked(sender: Task, request: Any, expired: bool, **_: Any) -> None:
    """Record why the email will not be sent, so that it is not left Pending with no message to send it.

    Celery sends this signal for a task that somebody revoked, and for one that came after its `expires`.
    """
    reason = EXPIRED if expired else "cancelled: its task was revoked"
    try:
        email_id = parse_message(request.args[0]) if sender.name == bridge.name else request.args[0]
        get_sender().cancel(email_id, reason)
    except (IndexError, InvalidMessage, StoreRefused, StoreUnavailable) as error:
        logger.error("the email of the revoked task %s stays as it is, for sweep to find: %s", request.id, error)


def _attempt(task: Task, email_id: str, missing_since: float | None, step: Callable[[str], Outcome | Later]) -> Outcome:
    """Take the step, or put it off by a delayed copy of the task's message."""
    bind_contextvars(email_id=email_id)
    now_missing_since = None
    headers = dict(task.request.headers or {})
    try:
        outcome = step(email_id)
    except EmailNotFound:
        now = time.time()
        now_missing_since = missing_since if waits.is_past(missing_since, now) else now
        wait = waits.for_row(now - now_missing_since, get_settings().missing_row_wait)
        if isinstance(wait, Reason):
            raise Reject(wait) from None
        outcome = wait
    except StoreUnavailable as error:
        outcome = wait_for_store(task, error)
        if isinstance(error, ClaimUnanswered):
            headers[CLAIM_TOKENS_HEADER] = claim_tokens.to_text(error.tokens)
    if isinstance(outcome, Later):
        logger.info("waits %.1f s: %s", outcome.seconds, outcome.reason)
        countdown = min(outcome.seconds, waits.LONGEST_SECONDS)
        raise task.retry((email_id, now_missing_since), countdown=countdown, headers=headers)
    if isinstance(outcome, Finished):
        logger.info(outcome.outcome)
    return outcome


def wait_for_store(task: Task, error: StoreUnavailable) -> Later:
    """What a task does while DynamoDB is away."""
    pause.begin(PAUSE_SECONDS)  # others need not come to see the same
    return waits.for_store(task.request.retries + 1, str(error))
