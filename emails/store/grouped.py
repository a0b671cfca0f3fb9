"""The requests to the emails' table that several threads share: reads, and the usual claims and records.

Only the usual case is grouped. Everything else has a request of its own, as has every call that its group did not
answer with plain success.

The statements use only what the Developer Guide describes: several SETs, IS MISSING and RETURNING ("PartiQL update
statements for DynamoDB"). It does not say that RETURNING works in a batch, so groups are turned off if it does not.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from emails.status import EmailStatus
from emails.store.groups import Groups, Kind
from emails.store.items import StoreDenied, StoreRefused, errors, serialize

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_dynamodb import DynamoDBClient

    from emails.store.groups import Item
    from emails.store.items import Row

logger = logging.getLogger(__name__)

MOST_KEYS = 100  # API reference, "BatchGetItem"
MOST_STATEMENTS = 25  # API reference, "BatchExecuteStatement"
# A group's answer should stay near this size, so that nobody waits long for other emails' large rows. BatchGetItem
# itself stops at 16 MB, and returns the rest of the keys as unprocessed.
ANSWER_BYTES = 1_000_000
FADES = 0.9  # by this factor the largest recent row is forgotten with each answer


@dataclass(frozen=True)
class Statement:
    """An update of one row under a claim, as BatchExecuteStatement takes it."""

    email_id: str
    claim_id: str
    request: dict[str, Any]


def claim_statement(table: str, email_id: str, assign: Row) -> Statement:
    """Return the claim of a row that was never claimed."""
    equal = {"EmailId": email_id, "EmailStatus": EmailStatus.PENDING.value}
    request = _request(table, {**assign, "Attempts": 1}, equal, missing=("Attempts", "NextAttemptAt"))
    return Statement(email_id, assign["ClaimedBy"], request)


def record_statement(table: str, email_id: str, assign: Row, *, claim_id: str) -> Statement:
    """Return the record of a send for a row from which nothing has to be removed."""
    equal = {"EmailId": email_id, "EmailStatus": EmailStatus.SENDING.value, "ClaimedBy": claim_id}
    return Statement(email_id, claim_id, _request(table, assign, equal))


def _request(table: str, assign: Row, equal: Row, missing: tuple[str, ...] = ()) -> dict[str, Any]:
    sets = " ".join(f'SET "{name}" = ?' for name in assign)
    where = " AND ".join([*(f'"{name}" = ?' for name in equal), *(f'"{name}" IS MISSING' for name in missing)])
    # A record needs the row too, because only the row's ClaimedBy shows which statement was carried out.
    text = f'UPDATE "{table}" {sets} WHERE {where} RETURNING ALL NEW *'
    return {"Statement": text, "Parameters": [serialize(value) for value in (*assign.values(), *equal.values())]}


class GroupedRequests:
    """The groups of one process for one table."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table
        self._row_bytes = 1.0  # of the largest rows among the last ones
        self._groups = Groups()
        self._reads = Kind(self._read, lambda: self._most(MOST_KEYS))
        self._writes = Kind(self._write, lambda: self._most(MOST_STATEMENTS))

    def get(self, email_id: str, alone: Callable[[], Item | None]) -> Item | None:
        """Return the row as the last write left it. Every method may raise StoreUnavailable."""
        return self._groups.ask(self._reads, email_id, email_id, alone)

    def update(self, email_id: str, statement: Statement, alone: Callable[[], Item | None]) -> Item | None:
        """Make the update, and return what the statement or `alone` returns."""
        return self._groups.ask(self._writes, email_id, statement, alone)

    def _read(self, email_ids: list[str]) -> Mapping[str, Item]:
        keys = [{"EmailId": serialize(email_id)} for email_id in email_ids]
        request = {self._table: {"Keys": keys, "ConsistentRead": True}}
        try:
            with errors():
                answer = self._client.batch_get_item(RequestItems=cast("Any", request))
        except StoreRefused:
            return {}
        except StoreDenied as error:
            self._turn_off(self._reads, "BatchGetItem", str(error))
            return {}
        # Unprocessed keys go alone, as do those without a row: that costs little, and a row is never missed.
        items = cast("list[Item]", answer.get("Responses", {}).get(self._table, []))
        self._note_size(answer, len(items))
        return {item["EmailId"]["S"]: item for item in items}

    def _write(self, statements: list[Statement]) -> Mapping[str, Item]:
        action = "BatchExecuteStatement"
        try:
            with errors():
                answer = self._client.batch_execute_statement(Statements=cast("Any", [s.request for s in statements]))
        except StoreRefused:
            return {}
        except StoreDenied as error:
            self._turn_off(self._writes, action, str(error))
            return {}
        # Each statement's error is within an HTTP 200, so botocore does not retry it.
        responses = cast("list[dict[str, Any]]", answer.get("Responses", []))
        codes = [response["Error"].get("Code", "") for response in responses if "Error" in response]
        changed = [response.get("Item", {}) for response in responses if "Error" not in response]
        # One row may be too large for its update. If no statement at all is valid, DynamoDB does not support them.
        if "AccessDenied" in codes or (not changed and len(codes) > 1 and set(codes) == {"ValidationError"}):
            self._turn_off(self._writes, action, f"DynamoDB answered with {min(codes)}")
        elif any("ClaimedBy" not in item for item in changed):
            self._turn_off(self._writes, action, "an answer does not contain the row that was changed")
        self._note_size(answer, len(changed))
        # Who a row belongs to is read from the row itself, so that the answers' order does not matter.
        by_claim = {item["ClaimedBy"]["S"]: item for item in changed if "ClaimedBy" in item}
        return {each.email_id: by_claim[each.claim_id] for each in statements if each.claim_id in by_claim}

    def _turn_off(self, kind: Kind[Any], action: str, why: str) -> None:
        if not kind.is_off:
            kind.is_off = True
            logger.warning("%s is no longer used, so each row has requests of its own: %s", action, why)

    def _most(self, limit: int) -> int:
        """Return how many rows may be asked for at once. It is never one, which would leave no answer to learn from."""
        return max(2, min(limit, int(ANSWER_BYTES / self._row_bytes)))

    def _note_size(self, answer: Any, rows: int) -> None:
        size = int(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-length", 0))
        self._row_bytes = max(size / max(rows, 1), self._row_bytes * FADES, 1.0)
