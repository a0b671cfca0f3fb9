"""Decides what a row calls for now: a send, a wait, an end without a send, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from emails import attachments
from emails.email import Email, InvalidRow
from emails.outcome import Done, RetryLater
from emails.status import ABANDON, DISCARD, EmailStatus, Transition, status_of

if TYPE_CHECKING:
    from emails.store import Row
    from settings import Settings

EXPIRED = "expired"
ABANDONED = (
    "a worker stopped after claiming the email and before recording the result: the provider may have accepted it"
)
LEASE_GRACE_SECONDS = 1  # the clocks of two workers differ; a lease must be over on both


@dataclass(frozen=True)
class Send:
    """The email may be sent now."""

    email: Email


@dataclass(frozen=True)
class End:
    """The row should make this transition, without a send."""

    transition: Transition
    reason: str
    done: Done


def decide(row: Row, now: float, settings: Settings) -> Send | End | RetryLater | Done:
    """Decide what to do about the email of this row."""
    status = status_of(row)
    if status == EmailStatus.SENDING:
        expires_at = row.get("ClaimExpiresAt")
        left = float(expires_at if isinstance(expires_at, Decimal) else 0) + LEASE_GRACE_SECONDS - now
        if left > 0:
            return RetryLater(left, "another worker has claimed it")
        return End(ABANDON, ABANDONED, Done(EmailStatus.UNKNOWN, "the claim expired"))
    if status not in (EmailStatus.PENDING, None):
        return Done(detail=f"already {status}")
    return decide_by_content(row, now, settings)


def decide_by_content(row: Row, now: float, settings: Settings) -> Send | End | RetryLater:
    """Decide what to do about an email if its status is no obstacle, for example because we have claimed it."""
    try:
        email = Email.from_row(row)
    except InvalidRow as error:
        return End(DISCARD, str(error), Done(EmailStatus.FAILED, "invalid row"))
    if reason := _why_never_send(email, now, settings):
        return End(DISCARD, reason, Done(EmailStatus.FAILED, reason))
    send_after = email.send_after.timestamp() if email.send_after else 0
    wait = max(email.next_attempt_at, send_after) - now
    return RetryLater(wait, "it is not due yet") if wait > 0 else Send(email)


def _why_never_send(email: Email, now: float, settings: Settings) -> str:
    """Return why the email must never be sent, or ""."""
    if email.expires_at and email.expires_at.timestamp() <= now:
        return EXPIRED
    if email.send_via and email.send_via not in settings.providers:
        return f"SendVia: is not one of the providers {', '.join(settings.providers)}"
    return attachments.why_forbidden(email, settings.attachment_prefixes)
