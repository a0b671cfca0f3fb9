"""What a provider says became of one recipient of an email, and what that makes of the email's row."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from emails.status import EmailStatus

if TYPE_CHECKING:
    from datetime import datetime


class EventType(StrEnum):
    """What happened, in django-anymail's words ("Normalized tracking event")."""

    QUEUED = "queued"
    SENT = "sent"
    REJECTED = "rejected"  # the provider took it, and then did not send it
    FAILED = "failed"  # the provider could not make the message
    BOUNCED = "bounced"
    DEFERRED = "deferred"  # not delivered yet: the provider goes on trying
    DELIVERED = "delivered"
    AUTORESPONDED = "autoresponded"
    OPENED = "opened"
    CLICKED = "clicked"
    COMPLAINED = "complained"
    UNSUBSCRIBED = "unsubscribed"
    UNKNOWN = "unknown"  # the provider's word is none that we know, and nothing is guessed from it


class RejectReason(StrEnum):
    """Why a recipient or a whole email is refused, in django-anymail's words."""

    INVALID = "invalid"  # the address cannot be one
    BOUNCED = "bounced"  # the recipient's server does not take it, or did not take the one before
    TIMED_OUT = "timed_out"  # it was tried until the provider gave up
    BLOCKED = "blocked"  # by policy of the provider or of the recipient's server
    SPAM = "spam"  # it, or one before, was taken for spam
    UNSUBSCRIBED = "unsubscribed"
    OTHER = "other"


@dataclass(frozen=True)
class DeliveryEvent:
    """One thing that became of one recipient. Its repr has neither the address nor what quotes it."""

    email_id: str
    type: EventType
    recipient: str = field(repr=False)  # an address, or nothing where the provider does not say whose
    occurred_at: datetime
    provider: str
    provider_message_id: str = ""
    reject_reason: RejectReason | None = None
    permanent: bool = True  # of a bounce: whether another email to this address would come back too
    description: str = ""  # the provider's own classification: nothing private
    diagnostic: str = field(default="", repr=False)  # what the recipient's server said

    @property
    def status(self) -> EmailStatus | None:
        """What the row becomes, if it is not past that: nothing where the event says nothing about sending."""
        if self.type == EventType.BOUNCED and not self.permanent:
            return EmailStatus.SENT
        return _STATUS.get(self.type)


# Whatever a recipient does with it, the provider has accepted the email; not more than that is known.
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
