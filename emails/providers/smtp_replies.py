"""What an SMTP server's reply means: the codes of RFC 5321 and the enhanced codes of RFC 3463 and IANA's registry."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from emails.events import RejectReason
from emails.mailbox import CONTROL_CHARACTERS
from emails.providers.contract import PermanentError, SendError, TemporaryError

LONGEST_WORDS = 500  # characters of the server's text that are kept

CLOSING = 421  # this may be the reply to any command (RFC 5321, section 3.8), which is then not carried out

# The operator has given no credentials or wrong ones (RFC 4954, section 6). That is no reason to fail an email at once.
AUTHENTICATION = frozenset({530, 534, 535, 538})

# These are looked up by the subject and detail of an enhanced code, then by its subject, then by the plain code.
_MEANINGS = {
    "1": (RejectReason.BOUNCED, "address rejected"),
    "1.1": (RejectReason.BOUNCED, "no such mailbox"),
    "1.2": (RejectReason.INVALID, "no such domain"),
    "1.3": (RejectReason.INVALID, "bad address"),
    "1.6": (RejectReason.BOUNCED, "mailbox has moved"),
    "1.7": (RejectReason.OTHER, "sender's address rejected"),
    "1.8": (RejectReason.OTHER, "sender's domain rejected"),
    "1.10": (RejectReason.BOUNCED, "domain does not accept mail"),
    "2": (RejectReason.BOUNCED, "mailbox problem"),
    "2.1": (RejectReason.BOUNCED, "mailbox disabled"),
    "2.2": (RejectReason.BOUNCED, "mailbox full"),
    "2.3": (RejectReason.OTHER, "too large for the mailbox"),
    "3": (RejectReason.OTHER, "mail system problem"),
    "3.4": (RejectReason.OTHER, "too large for the server"),
    "4": (RejectReason.OTHER, "network or routing problem"),
    "4.7": (RejectReason.TIMED_OUT, "delivery took too long"),
    "5": (RejectReason.OTHER, "protocol problem"),
    "5.3": (RejectReason.OTHER, "too many recipients"),
    "6": (RejectReason.OTHER, "content not supported"),
    "7": (RejectReason.BLOCKED, "rejected by policy"),
    "7.28": (RejectReason.SPAM, "mail flood detected"),
    "421": (RejectReason.OTHER, "service not available"),
    "450": (RejectReason.OTHER, "mailbox unavailable"),
    "451": (RejectReason.OTHER, "error in processing"),
    "452": (RejectReason.OTHER, "insufficient storage, or too many recipients"),
    "521": (RejectReason.BOUNCED, "host does not accept mail"),
    "530": (RejectReason.OTHER, "authentication required"),
    "535": (RejectReason.OTHER, "credentials invalid"),
    "550": (RejectReason.BOUNCED, "mailbox unavailable"),
    "551": (RejectReason.BOUNCED, "mailbox not local"),
    "552": (RejectReason.OTHER, "storage exceeded"),
    "553": (RejectReason.INVALID, "mailbox name not allowed"),
    "554": (RejectReason.OTHER, "transaction failed"),
    "556": (RejectReason.BOUNCED, "domain does not accept mail"),
}

# The id by which Postfix, Exim and Amazon SES name the message in their logs.
_ID = re.compile(r"(?:queued as |id=|^Ok (?=[0-9a-f]{16}-))(?P<id>[A-Za-z0-9-]{1,80})(?!\S)")


@dataclass(frozen=True)
class Reply:
    """A reply. Its str() is in our own words, because the server's words may quote an address or the content."""

    code: int
    text: str = field(default="", repr=False)

    @property
    def accepted(self) -> bool:
        return 200 <= self.code < 300  # noqa: PLR2004 (RFC 5321, section 4.2.1)

    @property
    def refused(self) -> bool:
        """Whether another try would get the same reply."""
        return self.code >= 500 and self.code not in AUTHENTICATION  # noqa: PLR2004 (RFC 5321)

    @property
    def enhanced(self) -> str:
        """The RFC 3463 code that the text begins with, or ""."""
        match = re.match(r"[245](\.\d{1,3}){2}(?!\S)", self.text)
        return match[0] if match else ""

    @property
    def reject_reason(self) -> RejectReason:
        return self._meaning[0]

    @property
    def words(self) -> str:
        """The server's own words, in one line."""
        return f"{self.code} {CONTROL_CHARACTERS.sub(' ', self.text)}"[:LONGEST_WORDS]

    @property
    def receipt(self) -> str:
        """The codes, and the server's id of the message if we recognise it. Its other words may quote the email."""
        match = _ID.search(self.text)
        return f"{self._codes}, queued as {match['id']}" if match else self._codes

    def __str__(self) -> str:
        return f"{self._codes}, {self._meaning[1]}" if self._meaning[1] else self._codes

    def error(self, what: str) -> SendError:
        """Return the error for what the server refuses or defers."""
        if self.refused:
            return PermanentError(f"the SMTP server rejected {what}: {self}", self.reject_reason)
        return TemporaryError(f"the SMTP server did not accept {what} for now: {self}")

    @property
    def _codes(self) -> str:
        return f"{self.code} {self.enhanced}".strip()

    @property
    def _meaning(self) -> tuple[RejectReason, str]:
        status = self.enhanced.partition(".")[2]
        for key in (status, status.partition(".")[0], str(self.code)):
            if key in _MEANINGS:
                return _MEANINGS[key]
        return RejectReason.OTHER, ""
