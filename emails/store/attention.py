"""The emails that need a person, which are the Failed and Unknown ones, and the index that finds them.

A row is in the index as long as it has both of the attributes KEY and SINCE. The transitions into these statuses set
them, and all others remove them, so an email that is sent without trouble is never in the index and costs no writes to
it. Workers of an older version know nothing of the attributes. Therefore readers leave out rows whose status is not the
one in their KEY, and `email-service provision --backfill` corrects what such workers left.
"""

from __future__ import annotations

import heapq
import json
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Self, cast

from emails.status import NEEDS_PERSON, EmailStatus, status_of
from emails.store.items import StoreRefused, epoch_seconds, errors, serialize, to_row
from emails.store.scans import Wanted
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import QueryInputTypeDef, QueryOutputTypeDef

    from emails.store.items import Row
    from settings import Settings

INDEX = "Attention"
KEY, SINCE = "AttentionKey", "AttentionSince"
ATTRIBUTES = (KEY, SINCE)
PROJECTED = ("EmailStatus", "FailureReason")
# One partition key takes 1,000 writes a second (Developer Guide, "Designing partition keys"). If an index cannot keep
# up, DynamoDB throttles the writes to its table. An outage can make more emails fail than that.
SHARDS = 16
AT_ONCE = 16  # shards that are read at the same time
PAGE = 250  # entries that are read from a shard at once
LATEST = 10**11  # epoch seconds; the year 5138
MOST_REASONS = 1000  # distinct reasons that are counted; some quote an id, and then each is different

FOR_CORRECTION = Wanted(
    ("EmailId", "EmailStatus", "UpdatedAt", KEY, SINCE),
    f"EmailStatus IN (:failed, :unknown) OR attribute_exists({KEY}) OR attribute_exists({SINCE})",
    {":failed": EmailStatus.FAILED.value, ":unknown": EmailStatus.UNKNOWN.value},
)

Position = dict[str, tuple[int, str]]
"""The SINCE and the EmailId of the last entry that was read from each shard, by the shard's KEY."""


class IndexMissing(StoreRefused):
    """The table does not have the index, or DynamoDB is still building it."""

    def __init__(self) -> None:
        super().__init__(f"The table has no index {INDEX} yet")


@dataclass(frozen=True)
class Entry:
    """An email in a list. `since` is the time of its transition into the status, in epoch seconds."""

    email_id: str
    status: EmailStatus | str | None
    since: int
    reason: str


@dataclass(frozen=True)
class Page:
    """Some entries, and the text that `Attention.page` takes to continue after them. It is empty at the end."""

    entries: list[Entry]
    next: str


@dataclass
class Tally:
    """Counts entries by their reason, in bounded memory."""

    total: int = 0
    by_reason: Counter[str] = field(default_factory=Counter)
    others: int = 0  # those with further reasons, after the first MOST_REASONS

    def add(self, reason: str) -> None:
        self.total += 1
        if reason in self.by_reason or len(self.by_reason) < MOST_REASONS:
            self.by_reason[reason] += 1
        else:
            self.others += 1


def marks(status: EmailStatus, email_id: str, since: float | None = None) -> Row:
    """Return the two attributes of a row that has had this status since then, or {} if it needs no person."""
    if status not in NEEDS_PERSON:
        return {}
    return {KEY: _key(status, email_id), SINCE: int(time.time() if since is None else since)}


class Attention:
    """Reads the index. It may be some seconds late, as it is eventually consistent.

    Every method may raise StoreUnavailable, StoreRefused, and IndexMissing, which is one kind of StoreRefused.
    """

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        self._client = client
        self._table = table

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(client("dynamodb", settings), settings.table)

    def newest(
        self,
        statuses: Collection[EmailStatus] = NEEDS_PERSON,
        *,
        since: float = 0,
        reason: str = "",
        after: Position | None = None,
    ) -> Iterator[Entry]:
        """Yield the emails with one of these statuses, the newest first, while holding at most a page of each shard.

        Leaves out those from before `since`, and those whose reason does not contain `reason` in any case of letters.
        """
        keys = [f"{status}#{shard}" for status in sorted(statuses) for shard in range(SHARDS)]
        requests = [self._request(key, since, (after or {}).get(key)) for key in keys]
        # Somebody is waiting for the first entry, which needs a page of every shard, and each page is a round trip.
        with ThreadPoolExecutor(AT_ONCE) as threads:
            pages = list(threads.map(self._query, requests))
        shards = [self._shard(*each) for each in zip(keys, requests, pages, strict=True)]
        wanted = reason.casefold()
        for entry in heapq.merge(*shards, key=lambda entry: -entry.since):
            if wanted in entry.reason.casefold():
                yield entry

    def page(
        self,
        size: int,
        after: str = "",
        *,
        statuses: Collection[EmailStatus] = NEEDS_PERSON,
        since: float = 0,
        reason: str = "",
    ) -> Page:
        """Return the `size` entries that follow those of the page whose `next` is `after`.

        Raises:
            ValueError: `after` is not the `next` of a page.
        """
        position = _position(after)
        entries = list(islice(self.newest(statuses, since=since, reason=reason, after=position), size + 1))
        for entry in entries[:size]:
            position[_key(cast("EmailStatus", entry.status), entry.email_id)] = (entry.since, entry.email_id)
        more = len(entries) > size
        return Page(entries[:size], json.dumps(position, separators=(",", ":")) if more else "")

    def tally(self, statuses: Collection[EmailStatus] = NEEDS_PERSON, *, since: float = 0, reason: str = "") -> Tally:
        """Count the emails with one of these statuses by their reason. Reads all of them."""
        result = Tally()
        for entry in self.newest(statuses, since=since, reason=reason):
            result.add(entry.reason)
        return result

    def count(self, status: EmailStatus, most: int) -> int:
        """Count the emails with this status, up to `most`."""
        found = 0
        for shard in range(SHARDS):
            request = self._request(f"{status}#{shard}", 0)
            request["Select"] = "COUNT"
            request["FilterExpression"] = "EmailStatus = :status"
            request["ExpressionAttributeValues"] = {
                **request["ExpressionAttributeValues"],
                ":status": serialize(status.value),
            }
            while found < most:
                request["Limit"] = most - found
                answer = self._query(request)
                found += answer["Count"]
                if "LastEvaluatedKey" not in answer:
                    break
                request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        return found

    def correct(self, row: Row) -> bool:
        """Make the two attributes of the row agree with its status. Returns whether that needed a write.

        The row needs no other attributes than those of FOR_CORRECTION.

        Raises:
            Conflict: the row has changed since it was read.
        """
        status = status_of(row)
        since = epoch_seconds(row.get("UpdatedAt")) or time.time()
        wanted = marks(status, row["EmailId"], since) if isinstance(status, EmailStatus) else {}
        if row.get(KEY) == wanted.get(KEY) and (SINCE in row) == bool(wanted):
            return False
        sets = ", ".join(f"{name} = :new_{name}" for name in wanted)
        seen = {name: row[name] for name in ("EmailStatus", KEY) if name in row}
        conditions = [f"{name} = :{name}" for name in seen]
        conditions += [f"attribute_not_exists({name})" for name in ("EmailStatus", KEY) if name not in seen]
        values = {f":new_{name}": value for name, value in wanted.items()}
        values |= {f":{name}": value for name, value in seen.items()}
        with errors():
            self._client.update_item(
                TableName=self._table,
                Key={"EmailId": serialize(row["EmailId"])},
                UpdateExpression=f"SET {sets}" if wanted else f"REMOVE {KEY}, {SINCE}",
                ConditionExpression=" AND ".join(["attribute_exists(EmailId)", *conditions]),
                ExpressionAttributeValues={name: serialize(value) for name, value in values.items()},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        return True

    def _shard(self, key: str, request: QueryInputTypeDef, answer: QueryOutputTypeDef) -> Iterator[Entry]:
        """Yield the entries of a shard. `answer` is its first page."""
        while True:
            for item in answer["Items"]:
                row = to_row(item) or {}
                if key.startswith(f"{status_of(row)}#"):
                    yield to_entry(row, row[SINCE])
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
            answer = self._query(request)

    def _request(self, key: str, since: float, start: tuple[int, str] | None = None) -> QueryInputTypeDef:
        request: QueryInputTypeDef = {
            "TableName": self._table,
            "IndexName": INDEX,
            "KeyConditionExpression": f"{KEY} = :key AND {SINCE} >= :since",
            "ExpressionAttributeValues": {":key": serialize(key), ":since": serialize(int(since))},
            "ScanIndexForward": False,
            "Limit": PAGE,
        }
        if start:
            last = {"EmailId": start[1], KEY: key, SINCE: start[0]}
            request["ExclusiveStartKey"] = {name: serialize(value) for name, value in last.items()}
        return request

    def _query(self, request: QueryInputTypeDef) -> QueryOutputTypeDef:
        try:
            with errors():
                return self._client.query(**request)
        except StoreRefused as error:
            # "The table does not have the specified index", "Cannot read from backfilling global secondary index"
            if " index" in str(error.__cause__):
                raise IndexMissing from None
            raise


def to_entry(row: Row, since: float) -> Entry:
    reason = row.get("FailureReason")
    return Entry(row["EmailId"], status_of(row), int(since), reason if isinstance(reason, str) else "")


def _key(status: EmailStatus, email_id: str) -> str:
    return f"{status}#{zlib.crc32(email_id.encode()) % SHARDS}"


def _position(text: str) -> Position:
    """Return the position that a page's `next` holds. The text may come from outside.

    Raises:
        ValueError: it is not the `next` of a page.
    """
    try:
        found: Any = json.loads(text or "{}")
        position = {str(key): (int(since), str(email_id)) for key, (since, email_id) in found.items()}
    except (AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    for since, email_id in position.values():
        email_id.encode()  # a lone surrogate raises UnicodeEncodeError, which is a ValueError
        if not 0 <= since < LATEST:
            raise ValueError(f"{since} is not a time")
    return position
