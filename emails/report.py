"""What is shown of an email to a person who asks what became of it: never its content."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from emails.status import status_of

if TYPE_CHECKING:
    from emails.store import Row

# The attributes that are shown, in this order. The rest of the row is the producer's, and may be private.
ATTRIBUTES = (
    "Provider",
    "ProviderMessageId",
    "ProviderResponse",
    "SentAt",
    "RedirectedTo",
    "FailureReason",
    "Attempts",
    "ProvidersTried",
    "NextAttemptAt",
    "SendAfter",
    "ExpiresAt",
    "ClaimedBy",
    "ClaimExpiresAt",
    "UpdatedAt",
)
# What is shown of a provider's report about a recipient.
EVENT = ("Recipient", "EventType", "Permanent", "RejectReason", "OccurredAt", "Description", "Diagnostic", "Provider")
EPOCH = ("NextAttemptAt", "ClaimExpiresAt")

NOT_MASKED = ("EmailId", "ProviderMessageId")  # they are ids, even if they contain an @
_ADDRESS = re.compile(r"(\"[^\"]*\"|[^\s\"<>()\[\],;:@]+)@([^\s\"<>()\[\],;:@'=]+)")
SHOWN_FROM = 4  # characters before the @; of a shorter address, not even the first one is shown


def report(email_id: str, row: Row) -> dict[str, object]:
    """Return the row's status and ATTRIBUTES, in a form that JSON can hold."""
    found: dict[str, object] = {"EmailId": email_id, "EmailStatus": status_of(row)}
    for name in ATTRIBUTES:
        value = row.get(name)
        if name in EPOCH and isinstance(value, Decimal):
            found[name] = _moment(value)
        elif name == "ProvidersTried" and isinstance(value, dict):
            found[name] = ", ".join(f"{provider} {_plain(count)}" for provider, count in sorted(value.items()))
        elif value is not None:
            found[name] = _plain(value)
    return found


def event_report(item: Row) -> dict[str, object]:
    """Return a provider's report about a recipient, in a form that JSON can hold."""
    return {name: _plain(item[name]) for name in EVENT if name in item}


def masked(report: dict[str, object]) -> dict[str, object]:
    """Return the report with every address in it masked, as in `a…@example.com`."""
    return {
        name: _ADDRESS.sub(_mask, value) if isinstance(value, str) and name not in NOT_MASKED else value
        for name, value in report.items()
    }


def _mask(address: re.Match[str]) -> str:
    local, domain = address.groups()
    return f"{local[0] if len(local) >= SHOWN_FROM else ''}…@{domain}"


def _moment(seconds: Decimal) -> object:
    try:
        return datetime.fromtimestamp(int(seconds), UTC).isoformat()
    except (ValueError, OverflowError):  # it is not a number, or not in the years 1 to 9999
        return _plain(seconds)


def _plain(value: object) -> object:
    """Return the value as JSON can hold it. It may be of any type, since others write to the table too."""
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if whole else float(value)
    return value if isinstance(value, str | bool) else repr(value)
