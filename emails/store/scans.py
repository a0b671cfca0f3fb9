"""Reads a whole table, in several segments at once and at a limited rate."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emails.store.items import errors, serialize, to_row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import ScanInputTypeDef

    from emails.status import EmailStatus
    from emails.store.items import Row

SEGMENTS = 4


@dataclass(frozen=True)
class Wanted:
    """Which attributes a scan returns, and of which rows: a FilterExpression with its values, or "" for all rows."""

    attributes: tuple[str, ...]
    condition: str = ""
    values: Row = field(default_factory=dict)

    @classmethod
    def with_status(cls, statuses: Collection[EmailStatus], attributes: tuple[str, ...]) -> Wanted:
        values: Row = {f":{status}": status.value for status in sorted(statuses)}
        return cls(attributes, f"EmailStatus IN ({', '.join(values)})", values)


def scan(
    client: DynamoDBClient,
    table: str,
    wanted: Wanted,
    read_units_per_second: float,
    keys: dict[str, Row | None],
) -> Iterator[tuple[list[Row], float]]:
    """Yield the rows of one page of each segment at a time, with the read units that they took.

    `keys` has the key from which each segment continues, or None if the segment is done. It is kept up to date.
    """
    open_segments = {segment for segment in range(SEGMENTS) if keys.get(str(segment), {}) is not None}
    with ThreadPoolExecutor(SEGMENTS) as pool:
        while open_segments:
            started = time.monotonic()
            segments = sorted(open_segments)
            found: list[Row] = []
            total = 0.0
            pages = pool.map(lambda number: _page(client, table, wanted, number, keys.get(str(number))), segments)
            for segment, (rows, key, units) in zip(segments, pages, strict=True):
                found += rows
                total += units
                keys[str(segment)] = key
                if key is None:
                    open_segments.discard(segment)
            yield found, total
            if open_segments:
                time.sleep(max(0, total / read_units_per_second - (time.monotonic() - started)))


def _page(
    client: DynamoDBClient, table: str, wanted: Wanted, segment: int, start: Row | None
) -> tuple[list[Row], Row | None, float]:
    """Return the rows of a page, the key to continue from (None at the end), and the read units that it took."""
    request: ScanInputTypeDef = {
        "TableName": table,
        "Segment": segment,
        "TotalSegments": SEGMENTS,
        "ProjectionExpression": ", ".join(wanted.attributes),
        "ReturnConsumedCapacity": "TOTAL",
    }
    if wanted.condition:
        request["FilterExpression"] = wanted.condition
    if wanted.values:
        request["ExpressionAttributeValues"] = {name: serialize(value) for name, value in wanted.values.items()}
    if start:
        request["ExclusiveStartKey"] = {name: serialize(value) for name, value in start.items()}
    with errors():
        answer = client.scan(**request)
    rows = [to_row(item) or {} for item in answer.get("Items", [])]
    units = answer.get("ConsumedCapacity", {}).get("CapacityUnits", 0)
    return rows, to_row(answer.get("LastEvaluatedKey")), units
