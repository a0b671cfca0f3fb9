"""What every provider does: send one email once, and say what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from emails.events import RejectReason

if TYPE_CHECKING:
    from emails.email import Email


@dataclass(frozen=True)
class RefusedRecipient:
    """One recipient to whom the provider will not send. Goes into the email's history, never into a log."""

    address: str = field(repr=False)  # as the provider was given it; nothing where the whole email is refused
    reason: RejectReason
    response: str = field(default="", repr=False)  # the provider's own words


@dataclass(frozen=True)
class Receipt:
    """The provider has accepted the email, for all recipients but those it refused."""

    provider: str
    message_id: str
    response: str = ""  # shown by `status`: no words of the server's, which may quote an address or the content
    refused: tuple[RefusedRecipient, ...] = ()
    accepted_at: float = field(default_factory=time.time)


class SendError(Exception):
    """The email was not accepted, or nobody can tell. Its text goes into FailureReason and logs: nothing private.

    So a provider says what happened in words of its own, and puts what the server said into `refused` at most.
    """


class TemporaryError(SendError):
    """Not accepted now; a later attempt may succeed, not before `retry_after` seconds where the provider says so."""

    def __init__(self, reason: str, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class PermanentError(SendError):
    """Not accepted, and never will be: for the recipients in `refused`, where it is not for the whole email."""

    def __init__(
        self,
        reason: str,
        reject_reason: RejectReason = RejectReason.OTHER,
        refused: tuple[RefusedRecipient, ...] = (),
    ) -> None:
        super().__init__(reason)
        self.reject_reason = reject_reason
        self.refused = refused


class NoTellingError(SendError):
    """The request left, and no answer says whether it was accepted."""


class Provider(Protocol):
    """A provider makes exactly one attempt a call: it has no retries of its own, and none in the client below it.

    `send` is called from several threads at once. tests/emails/providers/test_contract.py is the same for every one.
    """

    name: str
    longest_send: float  # seconds; after that, `send` has returned or raised, whatever the network does
    max_message_bytes: int | None  # the largest it takes; a larger one is a PermanentError before anything leaves

    def max_send_rate(self) -> float | None:
        """Emails a second that the provider takes, where it says so; asked once, at a worker's start."""
        ...

    def send(self, email: Email) -> Receipt:
        """Send the email to its `recipients`, which are the envelope: each address once.

        Raises:
            TemporaryError, PermanentError, NoTellingError
        """
        ...
