"""What a person may do to one email. Each function returns a sentence that says what has happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emails.hints import hint
from emails.raw_queue import enqueue_ids
from emails.status import DISCARD, status_of
from emails.store import Conflict

if TYPE_CHECKING:
    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore


class Refused(Exception):
    """It was not done. The text says why."""


def cancel(store: EmailStore, email_id: str) -> str:
    """Pending → Failed: cancelled."""
    try:
        store.end(email_id, DISCARD, "cancelled")
    except Conflict as conflict:
        raise _refused(email_id, conflict, "Pending") from None
    return f"{email_id} is Failed: cancelled."


def mark_sent(store: EmailStore, email_id: str) -> str:
    """Unknown or Failed → Sent."""
    try:
        store.resolve_sent(email_id)
    except Conflict as conflict:
        raise _refused(email_id, conflict, "Unknown or Failed") from None
    return f"{email_id} is Sent."


def resend(store: EmailStore, queue: Queue, email_id: str) -> str:
    """Unknown or Failed → Pending, and enqueue the id."""
    try:
        store.resend(email_id)
    except Conflict as conflict:
        raise _refused(email_id, conflict, "Unknown or Failed") from None
    if enqueue_ids(queue, [email_id]):
        raise Refused(f"{email_id} is Pending, but SQS did not accept its message: {hint('enqueue', email_id)}")
    return f"{email_id} is Pending and enqueued."


def _refused(email_id: str, conflict: Conflict, wanted: str) -> Refused:
    if conflict.row is None:
        return Refused(f"{email_id} has no row.")
    return Refused(f"{email_id} is {status_of(conflict.row) or 'without a status'}, not {wanted}.")
