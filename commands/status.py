"""Tell an email's story."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from emails.model import status_of
from emails.store import EmailStore, EventStore
from settings import get_settings
from settings.aws import client

if TYPE_CHECKING:
    from emails.store import Row

# What the service writes, in the order of the story. The rest of the row is the producer's, and may be private.
STORY = (
    "Provider",
    "ProviderMessageId",
    "ProviderResponse",
    "SentAt",
    "FailureReason",
    "Attempts",
    "NextAttemptAt",
    "SendAfter",
    "ExpiresAt",
    "ClaimedBy",
    "ClaimExpiresAt",
    "UpdatedAt",
)
# Of each recipient, what a provider said.
EVENT = ("Recipient", "EventType", "Permanent", "RejectReason", "OccurredAt", "Description", "Diagnostic", "Provider")
EPOCH = ("NextAttemptAt", "ClaimExpiresAt")
END_OF_TIME = datetime.max.replace(tzinfo=UTC).timestamp()


@click.command()
@click.argument("email_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object, for programs.")
def status(email_id: str, as_json: bool) -> None:
    """Show what became of the email ID, and of each recipient of whom a provider has said something. No content."""
    settings = get_settings()
    dynamodb = client("dynamodb", settings)
    row = EmailStore(dynamodb, settings.table).get(email_id)
    if row is None:
        raise click.ClickException(f"{email_id} has no row in {settings.table}.")
    story = _story(email_id, row)
    events = [_event(item) for item in EventStore(dynamodb, settings.events_table).of(email_id)]
    if as_json:
        click.echo(json.dumps(story | {"Events": events}, ensure_ascii=False))
        return
    width = max(map(len, story))
    for name, value in story.items():
        click.echo(f"{name:<{width}}  {value}")
    for event in events:
        click.echo(f"{event['OccurredAt']}  {_sentence(event)}")


def _story(email_id: str, row: Row) -> dict[str, object]:
    story: dict[str, object] = {"EmailId": email_id, "EmailStatus": status_of(row)}
    for name in STORY:
        value = row.get(name)
        if isinstance(value, Decimal):
            value = int(value)
            if name in EPOCH and value < END_OF_TIME:
                value = datetime.fromtimestamp(value, UTC).isoformat()
        if value is not None:
            story[name] = value
    return story


def _event(item: Row) -> dict[str, object]:
    return {name: item[name] for name in EVENT if name in item}


def _sentence(event: dict[str, object]) -> str:
    what = str(event["EventType"]) + ("" if event["Permanent"] else " for now")
    words = [event.get("Recipient", "no recipient named"), what, event.get("RejectReason"), event.get("Description")]
    sentence = "  ".join(str(word) for word in words if word)
    return f"{sentence}  {event['Diagnostic']}" if "Diagnostic" in event else sentence
