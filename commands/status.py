"""Tell an email's story."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from emails.model import status_of
from emails.store import EmailStore
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
EPOCH = ("NextAttemptAt", "ClaimExpiresAt")
END_OF_TIME = datetime.max.replace(tzinfo=UTC).timestamp()


@click.command()
@click.argument("email_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="As a JSON object, for programs.")
def status(email_id: str, as_json: bool) -> None:
    """Show what became of the email ID. Addresses and content stay out of it."""
    settings = get_settings()
    row = EmailStore(client("dynamodb", settings), settings.table).get(email_id)
    if row is None:
        raise click.ClickException(f"{email_id} has no row in {settings.table}.")
    story = _story(email_id, row)
    if as_json:
        click.echo(json.dumps(story, ensure_ascii=False))
        return
    width = max(map(len, story))
    for name, value in story.items():
        click.echo(f"{name:<{width}}  {value}")


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
