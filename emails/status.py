"""The statuses an email passes through, and the table of the transitions between them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import Binary

if TYPE_CHECKING:
    from collections.abc import Mapping


class EmailStatus(StrEnum):
    """The values of the attribute `EmailStatus`. Any other value there is the producer's own."""

    PENDING = "Pending"
    SENDING = "Sending"
    SENT = "Sent"
    FAILED = "Failed"
    UNKNOWN = "Unknown"
    DELIVERED = "Delivered"
    BOUNCED = "Bounced"
    COMPLAINED = "Complained"


NEEDS_PERSON = frozenset({EmailStatus.FAILED, EmailStatus.UNKNOWN})


@dataclass(frozen=True)
class Transition:
    """One transition between statuses, which the store makes with one conditional write."""

    sources: frozenset[EmailStatus | None]  # None: the attribute is missing, NULL or empty
    target: EmailStatus
    after_lease: bool = False  # the lease must have ended


def _arrow(*sources: EmailStatus | None, to: EmailStatus, after_lease: bool = False) -> Transition:
    return Transition(frozenset(sources), to, after_lease)


CLAIM = _arrow(EmailStatus.PENDING, to=EmailStatus.SENDING)
DISCARD = _arrow(EmailStatus.PENDING, None, to=EmailStatus.FAILED)
ABANDON = _arrow(EmailStatus.SENDING, to=EmailStatus.UNKNOWN, after_lease=True)

# The transitions of a claim's holder, which also need its claim.
# If a claim got no answer, its worker knows that it has sent nothing under it. That is true even if somebody else has
# marked the email Unknown after the lease ended.
TAKE_OVER = _arrow(EmailStatus.SENDING, EmailStatus.UNKNOWN, to=EmailStatus.SENDING)
# If the lease ended while the provider answered, the holder is late but not wrong, so Unknown becomes Sent. If an
# operator has already marked the email Sent, the holder adds its receipt.
RECORD = _arrow(EmailStatus.SENDING, EmailStatus.UNKNOWN, EmailStatus.SENT, to=EmailStatus.SENT)
GIVE_BACK = _arrow(EmailStatus.SENDING, to=EmailStatus.PENDING)
FAIL = _arrow(EmailStatus.SENDING, to=EmailStatus.FAILED)
MARK_UNKNOWN = _arrow(EmailStatus.SENDING, to=EmailStatus.UNKNOWN)

# The transitions of an operator who has found out what happened.
RESOLVE_SENT = _arrow(EmailStatus.UNKNOWN, EmailStatus.FAILED, to=EmailStatus.SENT)
RESEND = _arrow(EmailStatus.UNKNOWN, EmailStatus.FAILED, to=EmailStatus.PENDING)

# The transitions that a provider's callbacks make. Callbacks come in any order and any number of times, and the row
# shows the worst status among them.
RANKED = (EmailStatus.SENT, EmailStatus.DELIVERED, EmailStatus.BOUNCED, EmailStatus.COMPLAINED)
_BEFORE = (EmailStatus.PENDING, EmailStatus.SENDING, EmailStatus.FAILED, EmailStatus.UNKNOWN)
TRACK = {status: _arrow(*_BEFORE, *RANKED[:rank], to=status) for rank, status in enumerate(RANKED)}
# If a callback came before the holder's record, the holder adds its receipt and leaves the status alone.
ADD_RECEIPT = {status: _arrow(status, to=status) for status in RANKED[1:]}

TRANSITIONS = (
    *(CLAIM, TAKE_OVER, DISCARD, RECORD, GIVE_BACK, FAIL, MARK_UNKNOWN, ABANDON, RESOLVE_SENT, RESEND),
    *TRACK.values(),
    *ADD_RECEIPT.values(),
)


def status_of(row: Mapping[str, Any]) -> EmailStatus | str | None:
    """Return the row's status: one of ours, the producer's own as text, or None if it is missing."""
    value = row.get("EmailStatus")
    if is_missing(value):
        return None
    try:
        return EmailStatus(value)  # type: ignore[arg-type]  # a row may have any value
    except ValueError:
        return value if isinstance(value, str) else repr(value)


def is_missing(value: object) -> bool:
    """Whether an attribute with this value counts as missing."""
    return value is None or value == Binary(b"") or (isinstance(value, (str, list, set, dict)) and not value)
