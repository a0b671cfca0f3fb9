"""The command that shows what became of an email."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from commands import say, say_json
from emails.hints import hint
from emails.status import status_of
from emails.store import EmailStore, EventStore
from settings import get_settings

if TYPE_CHECKING:
    from emails.store import Row
    from settings import Settings

# The attributes that are shown, in this order. The rest of the row is the producer's, and may be private.
ATTRIBUTES = (
    "Provider",
    "ProviderMessageId",
    "ProviderResponse",
    "SentAt",
    "RedirectedTo",
    "FailureReason",
    "Attempts",
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


@click.command()
@click.argument("email_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
def status(email_id: str, as_json: bool) -> None:
    """Show what became of the email ID, and what providers reported about its recipients.

    The email's content is not shown.
    """
    settings = get_settings()
    row = EmailStore.from_settings(settings).get(email_id)
    if row is None:
        raise click.ClickException(no_row(email_id, settings))
    report = _report(email_id, row)
    events = [_event(item) for item in EventStore.from_settings(settings).of(email_id)]
    if as_json:
        say_json(report | {"Events": events})
        return
    width = max(map(len, report))
    for name, value in report.items():
        say(f"{name:<{width}}  {value}")
    for event in events:
        say(_sentence(event))


def no_row(email_id: str, settings: Settings) -> str:
    """Return the text for a person who asks for an email without a row."""
    command = hint("send", "FILE")
    return (
        f"{email_id} has no row in {settings.table}. To write and enqueue one: {command}, where FILE is JSON like"
        " examples/email.json with this EmailId."
    )


def _report(email_id: str, row: Row) -> dict[str, object]:
    report: dict[str, object] = {"EmailId": email_id, "EmailStatus": status_of(row)}
    for name in ATTRIBUTES:
        value = row.get(name)
        if name in EPOCH and isinstance(value, Decimal):
            report[name] = _moment(value)
        elif value is not None:
            report[name] = _plain(value)
    return report


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


def _event(item: Row) -> dict[str, object]:
    return {name: _plain(item[name]) for name in EVENT if name in item}


def _sentence(event: dict[str, object]) -> str:
    what = f"{event.get('EventType')}{'' if event.get('Permanent', True) else ' (temporary)'}"
    recipient = event.get("Recipient", "no recipient named")
    words = [event.get("OccurredAt"), recipient, what, event.get("RejectReason"), event.get("Description")]
    return "  ".join(str(word) for word in (*words, event.get("Diagnostic")) if word)
