"""What every provider does: send one email once, and say what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from emails.model import Email


@dataclass(frozen=True)
class Receipt:
    """The provider has accepted the email."""

    provider: str
    message_id: str
    response: str = ""
    accepted_at: float = field(default_factory=time.time)


class SendError(Exception):
    """The email was not accepted, or nobody can tell. The text goes into FailureReason: no address, no content."""


class TemporaryError(SendError):
    """Not accepted now; a later attempt may succeed, not before `retry_after` seconds where the provider says so."""

    def __init__(self, reason: str, retry_after: float = 0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class PermanentError(SendError):
    """Not accepted, and never will be."""


class NoTellingError(SendError):
    """The request left, and no answer says whether it was accepted."""


class Provider(Protocol):
    """A provider makes exactly one attempt a call: it has no retries of its own, and none in the client below it."""

    name: str

    def send(self, email: Email) -> Receipt:
        """Send the email.

        Raises:
            TemporaryError, PermanentError, NoTellingError
        """
        ...
