"""The tables in DynamoDB."""

from emails.store.attention import Attention, Entry, IndexMissing
from emails.store.check import GroupsRefused, check_groups
from emails.store.events import EventStore
from emails.store.items import ClaimUnanswered, Conflict, Row, StoreRefused, StoreUnavailable, epoch_seconds
from emails.store.rows import Claim, EmailStore
from emails.store.scans import Wanted

__all__ = [
    "Attention",
    "Claim",
    "ClaimUnanswered",
    "Conflict",
    "EmailStore",
    "Entry",
    "EventStore",
    "GroupsRefused",
    "IndexMissing",
    "Row",
    "StoreRefused",
    "StoreUnavailable",
    "Wanted",
    "check_groups",
    "epoch_seconds",
]
