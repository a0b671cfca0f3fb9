"""The tables in DynamoDB."""

from emails.store.attention import Attention, Entry, IndexMissing
from emails.store.check import GroupsRefused, check_groups
from emails.store.events import EventStore
from emails.store.items import ClaimUnanswered, Conflict, Row, StoreRefused, StoreUnavailable
from emails.store.rows import Claim, EmailStore

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
    "check_groups",
]
