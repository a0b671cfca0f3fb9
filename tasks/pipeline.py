"""The tasks that send an email: bridge → process_email → load_email → send_email."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject
from celery.signals import task_revoked
from celery.utils.log import get_task_logger
from structlog.contextvars import bind_contextvars, bound_contextvars

from celery_sqs.per_process import one_per_process
from emails import claim_tokens, steps
from emails.decide import EXPIRED, Send
from emails.message import InvalidMessage, parse_message
from emails.outcome import DeadLetter, Done, RetryLater
from emails.sender import Sender
from emails.status import EmailStatus
from emails.steps import Carried
from emails.store import StoreRefused, StoreUnavailable
from settings import get_settings
from tasks.app import app

if TYPE_CHECKING:
    from emails.outcome import Outcome
    from tasks.task import Task

logger = get_task_logger(__name__)

# A header of a task's message. Every copy keeps it, even if an older worker that does not know it makes the copy.
CLAIM_TOKENS_HEADER = "claim_tokens"


# The send rates that providers allow, as tasks/start.py asked for them. The children of a prefork worker inherit them.
own_rates: dict[str, float] = {}


def get_sender() -> Sender:
    """Return this process's Sender, which all its threads share.

    A prefork worker's parent needs one for revoked tasks. A child must not inherit its connections and locks.
    """
    return one_per_process("tasks.sender", lambda: Sender.from_settings(get_settings(), own_rates))


@app.task(name="tasks.bridge")
def bridge(body: str) -> str:
    """Take a message of the raw queue. celery_sqs passes its body as this task's argument, whatever the body is.

    Returns the id of the email, which monitors show instead of the body.
    """
    email_id = steps.read(body)
    if isinstance(email_id, DeadLetter):
        raise Reject(email_id.reason)
    process_email.run(email_id)
    return email_id


@app.task(name="tasks.process_email")
def process_email(email_id: str) -> None:
    """Enqueue load_email, which send_email follows."""
    bind_contextvars(email_id=email_id)
    load_email.apply_async((email_id,), chain=[send_email.s()])


@app.task(name="tasks.load_email", bind=True, max_retries=None)
def load_email(self: Task, email_id: str, missing_since: float | None = None) -> str:
    """Read the row and decide. send_email follows only if the email may be sent."""
    outcome = steps.load(get_sender(), email_id, Carried(self.request.retries + 1, missing_since))
    if isinstance(outcome, Send):
        return email_id
    if isinstance(outcome, Done):
        self.request.chain = None
    return _end(self, email_id, outcome)


@app.task(name="tasks.send_email", bind=True, max_retries=None)
def send_email(self: Task, email_id: str, missing_since: float | None = None) -> str:
    """Claim the row, send the email, and record the result."""
    tokens = claim_tokens.from_text(self.request.get(CLAIM_TOKENS_HEADER))
    carried = Carried(self.request.retries + 1, missing_since, tokens)
    return _end(self, email_id, steps.send(get_sender(), email_id, carried))


def _end(task: Task, email_id: str, outcome: Outcome) -> str:
    """End the task. The message of a retry carries when the row was first missing, and the tokens of claims."""
    if not isinstance(outcome, RetryLater):
        return task.end(outcome)
    headers = dict(task.request.headers or {})
    if outcome.tokens:
        headers[CLAIM_TOKENS_HEADER] = claim_tokens.to_text(outcome.tokens)
    return task.end(outcome, (email_id, outcome.missing_since), headers=headers)


@task_revoked.connect
def explain_revoked(sender: Task, request: Any, expired: bool, **_: Any) -> None:
    """Record why the email will not be sent, so that it is not left Pending with no message to send it.

    Celery sends this signal for a task that somebody revoked, and for a task that came after its `expires`.
    """
    reason = EXPIRED if expired else "cancelled: its task was revoked"
    try:
        email_id = parse_message(request.args[0]) if sender.name == bridge.name else request.args[0]
        if get_sender().cancel(email_id, reason):
            ended = Done(EmailStatus.FAILED, reason)
            with bound_contextvars(email_id=email_id):
                logger.log(ended.level, "%s", ended)
    except (IndexError, InvalidMessage, StoreRefused, StoreUnavailable) as error:
        logger.error("the email of the revoked task %s is unchanged; a sweep will find it: %s", request.id, error)
