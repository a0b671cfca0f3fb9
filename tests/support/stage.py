"""A stage of the service on an emulator: its settings, queues, tables and rows."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from emails.resources import provision
from emails.store.attention import INDEX
from emails.store.items import serialize
from settings import Settings
from settings.aws import client

if TYPE_CHECKING:
    from pathlib import Path


# The emails' table of the predecessor, which has no index.
PREDECESSORS_TABLE: Any = {
    "KeySchema": [{"AttributeName": "EmailId", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": "EmailId", "AttributeType": "S"}],
    "BillingMode": "PAY_PER_REQUEST",
}


def new_stage(endpoint: str, name: str = "", **values: Any) -> Settings:
    """Create a stage's queues and tables, and return its settings. Its name is unique if none is given."""
    settings = Settings(endpoint_url=endpoint, stage=name or f"t{uuid.uuid4().hex[:10]}", **values)
    list(provision(settings))
    return settings


def without_index(settings: Settings) -> None:
    """Delete the index, as if the emails' table were the predecessor's."""
    updates: Any = [{"Delete": {"IndexName": INDEX}}]
    client("dynamodb", settings).update_table(TableName=settings.table, GlobalSecondaryIndexUpdates=updates)


def environment_of(settings: Settings, **others: str) -> dict[str, str]:
    """Return the variables by which a program finds the stage, together with the others.

    The stub writes no emails, which would go to the folder of the checkout, unless `others` has EMAIL_STUB_OUTBOX.
    """
    found = {"EMAIL_ENDPOINT_URL": settings.endpoint or "", "EMAIL_STAGE": settings.stage}
    return found | {"EMAIL_STUB_OUTBOX": "none"} | others


def pending_row(email_id: str) -> dict[str, Any]:
    """Return a row that can be sent, as the predecessor's producers write it."""
    return {
        "EmailId": email_id,
        "EmailStatus": "Pending",
        "Subject": "Hello",
        "Sender": "Shop <shop@example.com>",
        "RecipientsTo": ["ada@example.com"],
        "BodyText": "Hi",
    }


def write_rows(settings: Settings, row: dict[str, Any], email_ids: list[str]) -> None:
    """Write the row once for each id, 25 at a time, which is BatchWriteItem's limit."""
    attributes = {name: serialize(value) for name, value in row.items()}
    dynamodb = client("dynamodb", settings)
    for start in range(0, len(email_ids), 25):
        requests: list[Any] = [
            {"PutRequest": {"Item": attributes | {"EmailId": {"S": email_id}}}}
            for email_id in email_ids[start : start + 25]
        ]
        assert dynamodb.batch_write_item(RequestItems={settings.table: requests})["UnprocessedItems"] == {}


def count_sent(outbox: Path) -> int:
    """Return how many emails the stub provider has sent."""
    return sum(1 for _ in outbox.glob("*"))
