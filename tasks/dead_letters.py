"""Which email a dead letter is about, and whether it is useful to redrive it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emails.hints import hint
from emails.message import InvalidMessage, parse_message
from emails.status import EmailStatus, status_of
from settings import get_settings
from settings.model import dead_letter_queue
from tasks import protocol

if TYPE_CHECKING:
    from emails.dead_letters import ReceivedDeadLetter
    from emails.store import EmailStore

# If the row has any other status, a worker does nothing for the message but log "already <status>".
TO_BE_SENT = frozenset({EmailStatus.PENDING, EmailStatus.SENDING, None})


def summary(letter: ReceivedDeadLetter) -> dict[str, str]:
    """Return what is shown of the dead letter: not its body, which may be private."""
    return {
        "MessageId": letter.message_id,
        "Reason": letter.reason,
        "Detail": letter.detail,
        "EmailId": email_id_of(letter),
    }


def email_id_of(letter: ReceivedDeadLetter) -> str:
    """Return the id of the email that the message was to send, or "" if the body does not name one."""
    holds_task = letter.queue == dead_letter_queue(get_settings().tasks_queue)  # written by Celery, not by a producer
    try:
        return (protocol.email_id_of if holds_task else parse_message)(letter.body)
    except InvalidMessage:
        return ""


def why_useless(store: EmailStore, letter: ReceivedDeadLetter) -> str:
    """Say why a worker would do nothing for this message and what helps. Return "" if a worker would process it."""
    email_id = email_id_of(letter)
    row = store.get(email_id) if email_id else None
    if row is None or (status := status_of(row)) in TO_BE_SENT:
        return ""
    discard = f"`{hint('dead-letters discard', letter.message_id)}`"
    if status in (EmailStatus.FAILED, EmailStatus.UNKNOWN):
        why = row.get("FailureReason") or "no reason is recorded"
        resend = f"`{hint('resolve', email_id, '--resend')}`"
        return (
            f"{email_id} is {status} ({why}), so it would not be sent; to send it again, run {resend}, then {discard}"
        )
    return f"{email_id} is {status}, so it would not be sent; to delete this dead letter, run {discard}"
