"""The emails' rows in DynamoDB. Every write is conditional, and its condition comes from a Transition."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from emails.backoff import full_jitter
from emails.claim_tokens import claim_id, find_token, new_token
from emails.status import (
    ADD_RECEIPT,
    CLAIM,
    FAIL,
    GIVE_BACK,
    MARK_UNKNOWN,
    NEEDS_PERSON,
    RECORD,
    RESEND,
    RESOLVE_SENT,
    TAKE_OVER,
    EmailStatus,
    Transition,
    status_of,
)
from emails.store.attention import ATTRIBUTES as ATTENTION
from emails.store.attention import marks
from emails.store.grouped import GroupedRequests, claim_statement, record_statement
from emails.store.items import ClaimUnanswered, Conflict, StoreUnavailable, errors, serialize, to_item, to_row
from emails.store.scans import scan
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from mypy_boto3_dynamodb import DynamoDBClient

    from emails.providers.contract import Receipt
    from emails.store.grouped import Statement
    from emails.store.groups import Item
    from emails.store.items import Row
    from emails.store.scans import Wanted
    from settings import Settings

# A table that is throttled leaves out keys of a batch, and botocore does not ask for them again.
BATCH_ATTEMPTS = 8
BATCH_DELAY, BATCH_DELAY_MAX = 0.1, 5
SUMMARY = ("EmailStatus", "FailureReason", "Attempts", "UpdatedAt")
Tried = Mapping[str, int]  # how many attempts by each provider did not end in Sent, or None to leave that as it is
MAX_REASON = 1000  # characters of a FailureReason; an item may have 400 KB, but a screen shows less


@dataclass(frozen=True)
class Claim:
    """The right to send an email until the lease ends. `row` is the row as the claim left it.

    The token is not in it, so that nobody can publish the token of a claim under which an email may be sent.
    """

    email_id: str
    id: str
    expires_at: float
    row: Row = field(repr=False)


class EmailStore:
    """The rows of one table. Times are epoch seconds; every method may raise StoreUnavailable or StoreRefused.

    Unless `grouped` is False, threads that read, claim or record at the same time share requests.
    """

    def __init__(self, client: DynamoDBClient, table: str, *, grouped: bool = True) -> None:
        self._client = client
        self.table = table
        self._grouped = GroupedRequests(client, table) if grouped else None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(client("dynamodb", settings), settings.table, grouped=settings.grouped_requests)

    def get(self, email_id: str) -> Row | None:
        """Return the row as the last write left it, or None if there is no row."""

        def alone() -> Item | None:
            key = {"EmailId": serialize(email_id)}
            with errors():
                return self._client.get_item(TableName=self.table, Key=key, ConsistentRead=True).get("Item")

        return to_row(self._grouped.get(email_id, alone) if self._grouped else alone())

    def statuses(self, email_ids: Sequence[str]) -> dict[str, EmailStatus | str | None]:
        """Return the status of each row, as the last write left it, by id. Ids without a row are left out.

        There can be at most 100 ids (API reference, "BatchGetItem").
        """
        rows = self.summaries(email_ids, ("EmailStatus",))
        return {email_id: status_of(row) for email_id, row in rows.items()}

    def summaries(self, email_ids: Sequence[str], attributes: Sequence[str] = SUMMARY) -> dict[str, Row]:
        """Return some attributes of each row, like `statuses`."""
        keys = [{"EmailId": serialize(email_id)} for email_id in dict.fromkeys(email_ids)]
        projection = ", ".join(("EmailId", *attributes))
        found: dict[str, Row] = {}
        for attempt in range(BATCH_ATTEMPTS):
            if attempt:
                time.sleep(full_jitter(attempt, BATCH_DELAY, BATCH_DELAY_MAX))
            request = {"Keys": keys, "ProjectionExpression": projection, "ConsistentRead": True}
            with errors():
                answer = self._client.batch_get_item(RequestItems=cast("Any", {self.table: request}))
            rows = [to_row(item) or {} for item in answer["Responses"].get(self.table, [])]
            found |= {row["EmailId"]: row for row in rows}
            keys = cast("Any", answer.get("UnprocessedKeys", {})).get(self.table, {}).get("Keys", [])
            if not keys:
                return found
        raise StoreUnavailable("DynamoDB throttles the table")

    def put(self, row: Row) -> None:
        """Write a new row.

        Raises:
            Conflict: a row with that id exists.
        """
        item = to_item(row)
        with errors():
            self._client.put_item(
                TableName=self.table,
                Item=item,
                ConditionExpression="attribute_not_exists(EmailId)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )

    def claim(self, email_id: str, *, lease: float) -> Claim:
        """Pending → Sending, unless NextAttemptAt is in the future. Counts one attempt.

        Raises:
            Conflict: somebody else has claimed the email, or it is not due, or its status is past Sending.
            ClaimUnanswered: it is unknown whether the claim took effect.
        """
        now, token = time.time(), new_token()
        due = "(NOT attribute_type(NextAttemptAt, :number) OR NextAttemptAt <= :now)"
        values: Row = {":now": int(now), ":number": "N"}
        counted = "(attribute_not_exists(Attempts) OR attribute_type(Attempts, :number))"
        uncounted = "NOT attribute_type(Attempts, :number)"
        take = partial(self._take, email_id, CLAIM, token, now + lease, values=values)
        try:
            return take({}, attempts=+1, condition=f"{due} AND {counted}", usual=claim_statement)
        except Conflict as conflict:
            if isinstance((conflict.row or {}).get("Attempts", Decimal(0)), Decimal):
                raise
        # A producer wrote something other than a number, such as an empty string. Nothing can be added to that.
        return take({"Attempts": 1}, condition=f"{due} AND {uncounted}")

    def take_over(self, email_id: str, token: str, *, lease: float) -> Claim:
        """Replace the claim with this token, which got no answer, with a new claim. Counts no attempt.

        Raises:
            Conflict: the row has moved on, or another delivery of the same message was faster.
            ClaimUnanswered: it is unknown whether the new claim took effect.
        """
        condition, values = "ClaimedBy = :old", {":old": claim_id(token)}
        new, expires_at = new_token(), time.time() + lease
        return self._take(email_id, TAKE_OVER, new, expires_at, {}, condition=condition, values=values)

    def record(self, claim: Claim, receipt: Receipt) -> None:
        """Sending (or Unknown, if the holder is late) → Sent. If a callback came first, its status stays."""
        received = {
            "Provider": receipt.provider,
            "ProviderMessageId": receipt.message_id,
            "ProviderResponse": receipt.response,
            "SentAt": _iso(receipt.accepted_at),
        }
        if receipt.redirected_to:
            received["RedirectedTo"] = receipt.redirected_to
        remove: tuple[str, ...] = ("FailureReason", "NextAttemptAt")
        # While a row is Sending, nobody else adds these, so the row that the claim returned shows whether it has them.
        # It has ATTENTION if a worker of an older version has sent a Failed email again.
        unusual = claim.row.keys() & {*remove, *ATTENTION}
        usual = None if unusual else partial(record_statement, claim_id=claim.id)
        transition: Transition | None = RECORD
        while transition:
            try:
                self._move_claimed(claim, transition, received, remove=remove, usual=usual)
            except Conflict as conflict:
                found = conflict.row or {}
                transition = ADD_RECEIPT.get(cast("EmailStatus", status_of(found)))  # or a status of a producer's own
                remove, usual = (), None
                if transition is None or found.get("ClaimedBy") != claim.id:
                    raise
            else:
                return

    def give_back(
        self, claim: Claim, *, next_attempt_at: float, reason: str, counted: bool = True, tried: Tried | None = None
    ) -> None:
        """Sending → Pending, with no claim before `next_attempt_at`. `counted` is False if nothing was tried."""
        assign = {"NextAttemptAt": int(next_attempt_at), **_why(reason, tried)}
        self._move_claimed(claim, GIVE_BACK, assign, attempts=0 if counted else -1)

    def fail(self, claim: Claim, reason: str, tried: Tried | None = None) -> None:
        """Sending → Failed."""
        self._move_claimed(claim, FAIL, _why(reason, tried))

    def mark_unknown(self, claim: Claim, reason: str, tried: Tried | None = None) -> None:
        """Sending → Unknown: the provider may have accepted the email."""
        self._move_claimed(claim, MARK_UNKNOWN, _why(reason, tried))

    def track(self, email_id: str, transition: Transition, reason: str) -> None:
        """Make one of TRACK's transitions, because a provider reported it. Nobody sends the email after that.

        Raises:
            Conflict: there is no row, or its status is the same, worse, or the producer's own.
        """
        if reason:
            self._move(email_id, transition, {"FailureReason": reason[:MAX_REASON]}, remove=("NextAttemptAt",))
        else:
            self._move(email_id, transition, {}, remove=("FailureReason", "NextAttemptAt"))

    def end(self, email_id: str, transition: Transition, reason: str) -> None:
        """End the email without a send, by a transition that needs no claim: DISCARD or ABANDON."""
        self._move(email_id, transition, {"FailureReason": reason[:MAX_REASON]})

    def resolve_sent(self, email_id: str, only: Collection[EmailStatus] = NEEDS_PERSON) -> None:
        """Unknown or Failed, or `only` one of them → Sent, because an operator says so."""
        transition = replace(RESOLVE_SENT, sources=RESOLVE_SENT.sources.intersection(only))
        self._move(email_id, transition, {"FailureReason": "resolved by an operator: it was sent"})

    def resend(self, email_id: str, only: Collection[EmailStatus] = NEEDS_PERSON) -> None:
        """Unknown or Failed, or `only` one of them → Pending. Resets the attempt counter, and ends any claim."""
        forgotten = ("Attempts", "NextAttemptAt", "ClaimedBy", "ClaimExpiresAt", "ProvidersTried")
        transition = replace(RESEND, sources=RESEND.sources.intersection(only))
        self._move(email_id, transition, {}, remove=(*forgotten, "FailureReason", "RedirectedTo"))

    def touch(self, email_id: str, seen: str | None) -> None:
        """Set a Pending row's UpdatedAt if it is still `seen` (None: missing). Of several callers, only one succeeds.

        Raises:
            Conflict: the row has moved on, or somebody else has touched it.
        """
        values: Row = {":pending": EmailStatus.PENDING.value, ":now": _iso(time.time())}
        if seen is None:
            unchanged, values[":null"] = "(attribute_not_exists(UpdatedAt) OR attribute_type(UpdatedAt, :null))", "NULL"
        else:
            unchanged, values[":seen"] = "UpdatedAt = :seen", seen
        with errors():
            self._client.update_item(
                TableName=self.table,
                Key={"EmailId": {"S": email_id}},
                UpdateExpression="SET UpdatedAt = :now",
                ConditionExpression=f"EmailStatus = :pending AND {unchanged}",
                ExpressionAttributeValues={name: serialize(value) for name, value in values.items()},
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )

    def scan(
        self, wanted: Wanted, read_units_per_second: float, keys: dict[str, Row | None] | None = None
    ) -> Iterator[tuple[list[Row], float]]:
        """Read the whole table at a limited rate. See `emails.store.scans.scan`."""
        return scan(self._client, self.table, wanted, read_units_per_second, {} if keys is None else keys)

    def _take(
        self, email_id: str, transition: Transition, token: str, expires_at: float, assign: Row, **options: Any
    ) -> Claim:
        new, ends = claim_id(token), int(expires_at)
        try:
            row = self._move(email_id, transition, {"ClaimedBy": new, "ClaimExpiresAt": ends, **assign}, **options)
        except Conflict as conflict:
            row = conflict.row or {}
            if not _is_own_success(row, transition, new):
                if find_token(row, (token,)):
                    raise ClaimUnanswered("the answer came after the lease had ended", (token,)) from None
                raise
        except StoreUnavailable as error:
            raise ClaimUnanswered(str(error), (token,)) from error
        return Claim(email_id, new, ends, row)

    def _move_claimed(self, claim: Claim, transition: Transition, assign: Row, **options: Any) -> None:
        options |= {"condition": "ClaimedBy = :claim", "values": {":claim": claim.id}}
        try:
            self._move(claim.email_id, transition, assign, **options)
        except Conflict as conflict:
            if not _is_own_success(conflict.row, transition, claim.id):
                raise

    def _move(
        self,
        email_id: str,
        transition: Transition,
        assign: Row,
        *,
        remove: tuple[str, ...] = (),
        usual: Callable[[str, str, Row], Statement] | None = None,
        **options: Any,
    ) -> Row:
        """Make the transition. `usual` returns a statement that does the same to most rows and nothing to others."""
        attention = marks(transition.target, email_id)
        if not attention:  # even if it cannot come from Failed or Unknown: see `record`
            remove = (*remove, *ATTENTION)
        assign = {"EmailStatus": transition.target.value, "UpdatedAt": _iso(time.time()), **assign, **attention}
        alone = partial(self._update, email_id, transition, assign, remove, **options)
        if usual and self._grouped:
            return to_row(self._grouped.update(email_id, usual(self.table, email_id, assign), alone)) or {}
        return to_row(alone()) or {}

    def _update(  # noqa: PLR0913 (the parts of one expression)
        self,
        email_id: str,
        transition: Transition,
        assign: Row,
        remove: tuple[str, ...],
        *,
        condition: str = "",
        values: Row | None = None,
        attempts: int = 0,
    ) -> Item | None:
        values = {**(values or {}), **{f":new_{name}": value for name, value in assign.items()}}
        changes = [f"{name} = :new_{name}" for name in assign]
        if attempts:
            changes.append("Attempts = if_not_exists(Attempts, :zero) + :attempts")
            values |= {":zero": 0, ":attempts": attempts}
        source = _source_condition(transition, values)
        if transition.after_lease:
            condition = "(NOT attribute_type(ClaimExpiresAt, :number) OR ClaimExpiresAt < :now)"
            values |= {":number": "N", ":now": int(time.time())}
        with errors():
            return self._client.update_item(
                TableName=self.table,
                Key={"EmailId": {"S": email_id}},
                UpdateExpression=f"SET {', '.join(changes)}" + (f" REMOVE {', '.join(remove)}" if remove else ""),
                ConditionExpression=f"attribute_exists(EmailId) AND {source}" + (condition and f" AND {condition}"),
                ExpressionAttributeValues={name: serialize(value) for name, value in values.items()},
                # Only claims use the row afterwards. For the others, up to 400 KB would be transferred for nothing.
                ReturnValues="ALL_NEW" if transition in (CLAIM, TAKE_OVER) else "NONE",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            ).get("Attributes")


def _source_condition(transition: Transition, values: Row) -> str:
    """Return the condition that the row has one of the transition's sources. Adds its values to `values`."""
    statuses = {f":from_{status}": status.value for status in sorted(filter(None, transition.sources))}
    values |= statuses
    condition = f"EmailStatus IN ({', '.join(statuses)})"
    if None in transition.sources:
        values |= {":empty": "", ":string": "S", ":number_type": "N"}
        no_text = "NOT attribute_type(EmailStatus, :string) AND NOT attribute_type(EmailStatus, :number_type)"
        condition += f" OR EmailStatus = :empty OR ({no_text})"
    return f"({condition})"


def _is_own_success(row: Row | None, transition: Transition, claim_id: str) -> bool:
    """Whether the row is as this very write left it: then the answer was lost, and the write was sent again."""
    return row is not None and row.get("ClaimedBy") == claim_id and row.get("EmailStatus") == transition.target


def _why(reason: str, tried: Tried | None) -> Row:
    return {"FailureReason": reason[:MAX_REASON], **({"ProvidersTried": dict(tried)} if tried else {})}


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
