"""The fields of Amazon SES's notifications that we use. Unknown fields and values are not errors."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from emails.mailbox import check_visible


class Object(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


def _moment(value: object) -> object:
    """Parse a time. SES's times end in Z, and a time without an offset is taken as UTC too."""
    if not isinstance(value, str):
        raise ValueError("is not a string")  # noqa: TRY004 (pydantic reports a ValueError, but lets a TypeError through)
    moment = datetime.fromisoformat(value)
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("is outside the years 1 to 9999") from None


def _address(value: str) -> str:
    """Check a recipient. It may have a display name: if a server's report names nobody, SES repeats the To header."""
    check_visible(value.rpartition("<")[2])
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]
Address = Annotated[str, AfterValidator(_address)]


class Header(Object):
    name: str = ""
    value: str = ""


class Mail(Object):
    message_id: str = Field(alias="messageId")
    timestamp: Moment
    destination: list[Address] = []
    tags: dict[str, list[str]] = {}
    headers: list[Header] = []


# An RFC 3463 status code. In a diagnostic it counts only at the start or after the SMTP reply code (RFC 2034), so that
# no server's address or version number is taken for a status code.
_STATUS_CODE = r"[245]\.\d{1,3}\.\d{1,3}(?!\d|\.\d)"
_STATUS = re.compile(rf"\s*({_STATUS_CODE})")
_DIAGNOSTIC_STATUS = re.compile(rf"(?:^\s*(?:[\w-]+;\s*)?|\b[245]\d\d[ -]#?)({_STATUS_CODE})")


class Recipient(Object):
    address: Address = Field(alias="emailAddress")
    action: str = ""  # RFC 3464's: failed, delayed, delivered, relayed, expanded
    status: str = ""
    diagnostic: str = Field(default="", alias="diagnosticCode")

    @property
    def status_code(self) -> str:
        """The RFC 3463 code that the recipient's server gave, or ""."""
        found = _STATUS.match(self.status) or _DIAGNOSTIC_STATUS.search(self.diagnostic)
        return found[1] if found else ""

    @property
    def failed_for_good(self) -> bool:
        """Whether the recipient's server says that another try would fail too (RFC 3463, section 3.1: class 5)."""
        return self.status_code.startswith("5.") and self.action.strip().lower() in ("", "failed")


class Bounce(Object):
    type: str = Field(alias="bounceType")
    sub_type: str = Field("", alias="bounceSubType")
    recipients: list[Recipient] = Field([], alias="bouncedRecipients")
    timestamp: Moment

    def type_for(self, recipient: Recipient) -> str:
        """Return the bounce's type. SES calls some Transient and General although the server refuses permanently."""
        is_general = (self.type, self.sub_type) == ("Transient", "General")
        return "Permanent" if is_general and recipient.failed_for_good else self.type


class Complaint(Object):
    sub_type: str = Field("", alias="complaintSubType")
    feedback_type: str = Field("", alias="complaintFeedbackType")
    recipients: list[Recipient] = Field([], alias="complainedRecipients")
    timestamp: Moment


class Delivery(Object):
    recipients: list[Address] = []
    response: str = Field("", alias="smtpResponse")
    timestamp: Moment


class Delay(Object):
    type: str = Field("", alias="delayType")
    recipients: list[Recipient] = Field([], alias="delayedRecipients")
    timestamp: Moment


class Reject(Object):
    reason: str = ""


class RenderingFailure(Object):
    message: str = Field("", alias="errorMessage")


class Timed(Object):
    timestamp: Moment


class TopicPreference(Object):
    status: str = Field("", alias="subscriptionStatus")


class Preferences(Object):
    unsubscribed: bool = Field(default=False, alias="unsubscribeAll")
    topics: list[TopicPreference] = Field(default=[], alias="topicSubscriptionStatus")


class Subscription(Object):
    timestamp: Moment
    preferences: Preferences = Field(default=Preferences(topicSubscriptionStatus=[]), alias="newTopicPreferences")
