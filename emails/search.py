"""Finds emails by status, time, reason or recipient: from the index if that is enough, or else by a scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emails.mailbox import parse_mailbox
from emails.status import NEEDS_PERSON, EmailStatus
from emails.store import Wanted, epoch_seconds
from emails.store.attention import to_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emails.store import Attention, EmailStore, Entry, Row

RECIPIENTS = ("RecipientsTo", "RecipientsCc", "RecipientsBcc")
SHOWN = ("EmailId", "EmailStatus", "UpdatedAt", "FailureReason")


@dataclass
class Progress:
    """How far a scan has got."""

    found: int = 0
    read_units: float = 0


@dataclass(frozen=True)
class Search:
    """Which emails are wanted. A filter that is empty or 0 does not apply."""

    statuses: frozenset[EmailStatus] = NEEDS_PERSON
    since: float = 0  # epoch seconds; the email got its status then or later
    reason: str = ""  # its FailureReason contains this text, in any case of letters
    recipient: str = ""  # one of its recipients has this address, in any case of letters

    @property
    def needs_scan(self) -> bool:
        """Whether the index cannot answer."""
        return bool(self.recipient) or not self.statuses or not self.statuses <= NEEDS_PERSON

    def by_index(self, attention: Attention) -> Iterator[Entry]:
        """Yield the emails, the newest first. Raises IndexMissing before the first one if there is no index."""
        return attention.newest(self.statuses, since=self.since, reason=self.reason)

    def by_scan(
        self, store: EmailStore, read_units_per_second: float, progress: Callable[[Progress], object]
    ) -> Iterator[Entry]:
        """Yield the emails in no particular order, while reading the whole table at a limited rate."""
        attributes = (*SHOWN, *(RECIPIENTS if self.recipient else ()))
        wanted = Wanted.with_status(self.statuses, attributes) if self.statuses else Wanted(attributes)
        so_far = Progress()
        for rows, units in store.scan(wanted, read_units_per_second):
            so_far.read_units += units
            for row in rows:
                entry = to_entry(row, epoch_seconds(row.get("UpdatedAt")))
                if self._matches(entry, row):
                    so_far.found += 1
                    yield entry
            progress(so_far)

    def _matches(self, entry: Entry, row: Row) -> bool:
        return (
            entry.since >= self.since
            and self.reason.casefold() in entry.reason.casefold()
            and (not self.recipient or self.recipient.casefold() in _addresses(row))
        )


def _addresses(row: Row) -> Iterator[str]:
    """Yield the addresses of the row's recipients, in lower case. The row may hold anything, since others write it."""
    for name in RECIPIENTS:
        mailboxes = row.get(name)
        for mailbox in mailboxes if isinstance(mailboxes, list | set) else ():
            try:
                yield parse_mailbox(mailbox).addr_spec.casefold()
            except (ValueError, TypeError):
                yield str(mailbox).casefold()
