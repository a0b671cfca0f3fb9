"""What a provider reports about one recipient of an email, and the status that this gives the email's row."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from emails.status import EmailStatus

if TYPE_CHECKING:
    from datetime import datetime


class EventType(StrEnum):
    """What happened, in django-anymail's terms (its "Normalized tracking event")."""

    QUEUED = "queued"
    SENT = "sent"
    REJECTED = "rejected"  # the provider accepted the email, but then did not send it
    FAILED = "failed"  # the provider could not build the message
    BOUNCED = "bounced"
    DEFERRED = "deferred"  # not delivered yet; the provider keeps trying
    DELIVERED = "delivered"
    AUTORESPONDED = "autoresponded"
    OPENED = "opened"
    CLICKED = "clicked"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    UNKNOWN = "unknown"  # we do not know the provider's word, and guess nothing from it


class RejectReason(StrEnum):
    """Why a recipient or a whole email is refused, in django-anymail's terms."""

    INVALID = "invalid"  # the address is not valid
    BOUNCED = "bounced"  # the recipient's server refuses this email, or refused an earlier one
    TIMED_OUT = "timed_out"  # the provider tried until it gave up
    BLOCKED = "blocked"  # by a policy of the provider or of the recipient's server
    SPAM = "spam"  # this email, or an earlier one, was taken for spam
    UNSUBSCRIBED = "unsubscribed"
    OTHER = "other"


@dataclass(frozen=True)
class DeliveryEvent:
    """Something that happened to one recipient. Its repr has neither the address nor any text that may quote it."""

    email_id: str
    type: EventType
    recipient: str = field(repr=False)  # an address, or "" if the provider names nobody
    occurred_at: datetime
    provider: str
    provider_message_id: str = ""
    reject_reason: RejectReason | None = None
    permanent: bool = True  # for a bounce: whether another email to this address would bounce too
    per_provider: bool = False  # whether the history keeps one such event of each provider
    description: str = ""  # the provider's own classification, with nothing private in it
    diagnostic: str = field(default="", repr=False)  # what the recipient's server said

    @property
    def status(self) -> EmailStatus | None:
        """The row's new status, unless the row is already past it. None if the event says nothing about sending."""
        if self.type == EventType.BOUNCED and not self.permanent:
            return EmailStatus.SENT
        return _STATUS.get(self.type)


# If a recipient does anything with an email, the provider has accepted it. We conclude no more than that.
_STATUS = {
    EventType.SENT: EmailStatus.SENT,
    EventType.DEFERRED: EmailStatus.SENT,
    EventType.OPENED: EmailStatus.SENT,
    EventType.CLICKED: EmailStatus.SENT,
    EventType.AUTORESPONDED: EmailStatus.SENT,
    EventType.UNSUBSCRIBED: EmailStatus.SENT,
    EventType.DELIVERED: EmailStatus.DELIVERED,
    EventType.BOUNCED: EmailStatus.BOUNCED,
    EventType.REJECTED: EmailStatus.BOUNCED,
    EventType.FAILED: EmailStatus.BOUNCED,
    EventType.COMPLAINED: EmailStatus.COMPLAINED,
}
