"""The history: what happened to each recipient of an email. It has its own table."""

from __future__ import annotations

import time
from datetime import UTC
from typing import TYPE_CHECKING, Self

from emails.mailbox import CONTROL_CHARACTERS
from emails.store.items import Conflict, errors, serialize, to_row
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import QueryInputTypeDef

    from emails.events import DeliveryEvent
    from emails.store.items import Row
    from settings import Settings

KEPT_SECONDS = 400 * 24 * 3600  # complaints come late, and it is useful to look back over a year
MAX_TEXT = 1000  # characters that are kept of a provider's text
MAX_RECIPIENT = 900  # bytes; a sort key may have 1,024 (DynamoDB quotas, "Sort key length")


class EventStore:
    """Keeps one item for each kind of event and recipient: the latest event.

    The number of an email's items is therefore limited by its recipients, and events may come in any order. Every
    method may raise StoreUnavailable or StoreRefused.
    """

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self.table = table

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(client("dynamodb", settings), settings.events_table)

    def add(self, events: Iterable[DeliveryEvent]) -> None:
        """Keep the events. An event that is known already, or is older than the known one, changes nothing."""
        for event in events:
            try:
                with errors():
                    self._client.put_item(
                        TableName=self.table,
                        Item={name: serialize(value) for name, value in _to_item(event).items()},
                        ConditionExpression="attribute_not_exists(EventId) OR OccurredAt < :occurred_at",
                        ExpressionAttributeValues={":occurred_at": serialize(_occurred_at(event))},
                    )
            except Conflict:
                continue

    def of(self, email_id: str) -> list[Row]:
        """Return the events of an email, the oldest first."""
        rows: list[Row] = []
        request: QueryInputTypeDef = {
            "TableName": self.table,
            "KeyConditionExpression": "EmailId = :id",
            "ExpressionAttributeValues": {":id": {"S": email_id}},
            "ConsistentRead": True,
        }
        while True:
            with errors():
                answer = self._client.query(**request)
            rows += [to_row(item) or {} for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return sorted(rows, key=lambda row: repr(row.get("OccurredAt")))
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def _to_item(event: DeliveryEvent) -> Row:
    recipient = _text(event.recipient).encode()[:MAX_RECIPIENT].decode(errors="ignore")
    kind = event.type if event.permanent else f"{event.type} transient"
    item = {
        "EmailId": event.email_id,
        "EventId": f"{kind} by {event.provider}" if event.per_provider else f"{kind} {recipient}".rstrip(),
        "EventType": event.type.value,
        "Recipient": recipient,
        "OccurredAt": _occurred_at(event),
        "Permanent": event.permanent,
        "Provider": event.provider,
        "ProviderMessageId": _text(event.provider_message_id),
        "RejectReason": event.reject_reason and event.reject_reason.value,
        "Description": _text(event.description),
        "Diagnostic": _text(event.diagnostic),
        "ExpiresAt": int(time.time() + KEPT_SECONDS),
    }
    return {name: value for name, value in item.items() if value not in (None, "")}


def _text(text: str) -> str:
    """Return the text in the form that is stored: one line of limited length."""
    return CONTROL_CHARACTERS.sub(" ", text)[:MAX_TEXT].strip()


def _occurred_at(event: DeliveryEvent) -> str:
    """Return the event's time, always in the same form, so that sorting the texts sorts the times."""
    return event.occurred_at.astimezone(UTC).isoformat(timespec="milliseconds")
