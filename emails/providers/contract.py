"""What every provider does: it sends one email once, and reports the result."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from emails.events import RejectReason

if TYPE_CHECKING:
    from emails.email import Email


@dataclass(frozen=True)
class RefusedRecipient:
    """One recipient that the provider will not send to. It goes into the email's history, never into a log."""

    address: str = field(repr=False)  # as given to the provider; "" if the whole email is refused
    reason: RejectReason
    response: str = field(default="", repr=False)  # the provider's own words


@dataclass(frozen=True)
class Receipt:
    """The provider has accepted the email for all recipients except those in `refused`."""

    provider: str
    message_id: str
    response: str = ""  # shown by `status`; never the server's words, which may quote an address or content
    refused: tuple[RefusedRecipient, ...] = ()
    redirected_to: str = field(default="", repr=False)  # EMAIL_REDIRECT_TO, if it replaced the recipients
    accepted_at: float = field(default_factory=time.time)


class SendError(Exception):
    """The email was not accepted, or it is unknown whether it was.

    The text goes into FailureReason and into logs, so it must contain nothing private. A provider therefore describes
    what happened in its own words, and what the server said may only go into `refused`.
    """


class TemporaryError(SendError):
    """The email was not accepted. A later attempt may succeed, but it must wait at least `retry_after` seconds."""

    def __init__(self, reason: str, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class PermanentError(SendError):
    """The email was not accepted and never will be. If the cause is some recipients, `refused` names them."""

    def __init__(
        self,
        reason: str,
        reject_reason: RejectReason = RejectReason.OTHER,
        refused: tuple[RefusedRecipient, ...] = (),
    ) -> None:
        super().__init__(reason)
        self.reject_reason = reject_reason
        self.refused = refused


class UnknownResultError(SendError):
    """The request was sent, but no answer says whether the email was accepted."""


class Answer(NamedTuple):
    """What an error that a provider's API documents means.

    `says` describes it. If it is permanent, `reject_reason` is set. If not, the next attempt waits at least
    `retry_after` seconds.
    """

    says: str
    reject_reason: RejectReason | None = None
    retry_after: float = 0

    def error(self, code: str) -> SendError:
        if self.reject_reason:
            return PermanentError(f"{self.says} ({code})", self.reject_reason)
        return TemporaryError(f"{self.says} ({code})", self.retry_after)


class Provider(Protocol):
    """A provider makes exactly one attempt per call. Neither it nor the client library below it retries.

    `send` is called from several threads at once, and in the processes that a prefork worker forks.
    tests/emails/providers/test_contract.py tests every provider.
    """

    name: str
    longest_send: float  # seconds; `send` returns or raises within them, whatever the network does
    max_message_bytes: int | None  # a larger message raises PermanentError before anything is sent

    def max_send_rate(self) -> float | None:
        """Return the emails per second that the provider allows, or None if it does not say.

        A worker calls this once, when it starts.
        """
        ...

    def send(self, email: Email) -> Receipt:
        """Send the email to its `recipients`, which are the envelope and have each address once.

        `to` and `cc` are for the headers.

        Raises:
            TemporaryError, PermanentError: the email was certainly not accepted, so it may be sent again.
            UnknownResultError: it is unknown whether the email was accepted. Any other exception means the same.
        """
        ...
