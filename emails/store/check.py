"""Tries the grouped requests on the real table, with a scratch row that is deleted at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from botocore.exceptions import ClientError

from emails.claim_tokens import claim_id, new_token
from emails.status import EmailStatus
from emails.store.grouped import claim_statement, record_statement
from emails.store.items import serialize
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emails.store.grouped import Statement
    from emails.store.items import Row
    from settings import Settings

ADVICE = (
    "Workers notice this, log a warning and send each request alone. With EMAIL_GROUPED_REQUESTS=off, they do not try."
)


class GroupsRefused(Exception):
    """DynamoDB does not do what a grouped request needs. The text says what failed."""


def check_groups(settings: Settings) -> Iterator[str]:
    """Yield a line for each kind of grouped request that works on the emails' table.

    Raises:
        GroupsRefused: one does not work.
        ClientError: the scratch row cannot be written or deleted.
    """
    dynamodb, table = client("dynamodb", settings), settings.table
    scratch = f"provision-check-{uuid4().hex}"
    key = {"EmailId": serialize(scratch)}
    # The row has no recipients, so that no worker would ever send it.
    row = {"EmailId": scratch, "EmailStatus": EmailStatus.PENDING.value, "Subject": "A scratch row"}
    dynamodb.put_item(TableName=table, Item={name: serialize(value) for name, value in row.items()})
    try:
        check = _Check(dynamodb, table, scratch)
        check.reads()
        yield f"checked grouped reads of table {table}"
        check.claims()
        check.records()
        yield f"checked grouped claims and records of table {table}"
    finally:
        dynamodb.delete_item(TableName=table, Key=key)


class _Check:
    """The checks of one scratch row. Every method may raise GroupsRefused."""

    def __init__(self, dynamodb: Any, table: str, scratch: str) -> None:
        self._client = dynamodb
        self._table = table
        self._scratch = scratch
        self._missing = f"{scratch}-missing"
        self._claim_id = claim_id(new_token())

    def reads(self) -> None:
        keys = [{"EmailId": serialize(email_id)} for email_id in (self._scratch, self._missing)]
        try:
            answer = self._client.batch_get_item(RequestItems={self._table: {"Keys": keys, "ConsistentRead": True}})
        except ClientError as error:
            raise GroupsRefused(f"BatchGetItem failed: {error}. {ADVICE}") from None
        found = [item["EmailId"]["S"] for item in answer["Responses"].get(self._table, [])]
        _expect(found == [self._scratch], "BatchGetItem did not return the row that exists, and only that")

    def claims(self) -> None:
        claimed, missing = self._execute(self._claim(self._scratch), self._claim(self._missing))
        self._expect_row(claimed, "a claim", {"EmailStatus": "Sending", "Attempts": 1, "Subject": "A scratch row"})
        _expect_refused(missing, "a claim of a missing row")
        (again,) = self._execute(self._claim(self._scratch))
        _expect_refused(again, "a claim of a claimed row")

    def records(self) -> None:
        assign = {"EmailStatus": EmailStatus.SENT.value}
        other, ours = (record_statement(self._table, self._scratch, assign, claim_id=c) for c in ("-", self._claim_id))
        (refused,) = self._execute(other)
        _expect_refused(refused, "a record under another claim")
        (recorded,) = self._execute(ours)
        self._expect_row(recorded, "a record", assign)

    def _claim(self, email_id: str) -> Statement:
        expires_at = int(time.time() + 60)
        assign = {"EmailStatus": "Sending", "ClaimedBy": self._claim_id, "ClaimExpiresAt": expires_at}
        return claim_statement(self._table, email_id, assign)

    def _execute(self, *statements: Statement) -> list[dict[str, Any]]:
        try:
            answer = self._client.batch_execute_statement(Statements=[each.request for each in statements])
        except ClientError as error:
            raise GroupsRefused(f"BatchExecuteStatement failed: {error}. {ADVICE}") from None
        responses = cast("list[dict[str, Any]]", answer.get("Responses", []))
        _expect(len(responses) == len(statements), "BatchExecuteStatement did not answer every statement")
        return responses

    def _expect_row(self, response: dict[str, Any], what: str, values: Row) -> None:
        error = response.get("Error", {})
        _expect(not error, f"{what} failed: {error.get('Code')}: {error.get('Message')}")
        wanted = {name: serialize(value) for name, value in {**values, "ClaimedBy": self._claim_id}.items()}
        item = response.get("Item", {})
        _expect(
            all(item.get(name) == value for name, value in wanted.items()),
            f"the answer to {what} does not contain the updated row",
        )


def _expect_refused(response: dict[str, Any], what: str) -> None:
    code = response.get("Error", {}).get("Code", "success")
    _expect(code == "ConditionalCheckFailed", f"{what} ended with {code}, not with ConditionalCheckFailed")


def _expect(holds: object, problem: str) -> None:
    if not holds:
        raise GroupsRefused(f"{problem}. {ADVICE}")
