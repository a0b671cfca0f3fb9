"""Pauses a stage: its workers take no raw and no task messages until a person resumes it."""

from __future__ import annotations

import getpass
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from emails.store.items import errors, to_item, to_row
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_dynamodb import DynamoDBClient

    from settings import Settings

ROW = "pause\nof all workers"  # a row of the emails' table; no email's id has a line break


@dataclass(frozen=True)
class Pause:
    """Who paused the stage, when (ISO 8601) and why.

    `mappings` has the UUIDs of the event source mappings that the pause disabled.
    """

    since: str
    by: str
    reason: str
    mappings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"paused since {self.since} by {self.by}: {self.reason}"


class StagePause:
    """The stage's pause, in a row that all workers read. Methods may raise StoreUnavailable or StoreRefused."""

    def __init__(self, dynamodb: DynamoDBClient, table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    @classmethod
    def from_settings(cls, settings: Settings) -> StagePause:
        return cls(client("dynamodb", settings), settings.table)

    def read(self) -> Pause | None:
        """Return the pause, or None if the stage is not paused."""
        with errors():
            answer = self._dynamodb.get_item(TableName=self._table, Key={"EmailId": {"S": ROW}}, ConsistentRead=True)
        row = to_row(answer.get("Item"))
        if row is None:
            return None
        since, by, reason = (str(row.get(name, "unknown")) for name in ("PausedSince", "PausedBy", "PauseReason"))
        return Pause(since, by, reason, tuple(map(str, row.get("Mappings", ()))))

    def begin(self, by: str, reason: str, mappings: Sequence[str] = ()) -> Pause:
        """Pause the stage. If it is paused already, this pause replaces the other one."""
        pause = Pause(datetime.fromtimestamp(int(time.time()), UTC).isoformat(), by, reason, tuple(mappings))
        row = {"EmailId": ROW, "PausedSince": pause.since, "PausedBy": by, "PauseReason": reason}
        item = to_item(row | {"Mappings": list(pause.mappings)})
        with errors():
            self._dynamodb.put_item(TableName=self._table, Item=item)
        return pause

    def end(self) -> None:
        with errors():
            self._dynamodb.delete_item(TableName=self._table, Key={"EmailId": {"S": ROW}})


def paused_queues(settings: Settings) -> tuple[str, ...]:
    """Return the queues that a pause holds, which are all but the callbacks queue."""
    return *settings.raw_queues, settings.tasks_queue


def who(settings: Settings) -> str:
    """Return the caller's IAM identity, or the user of the operating system if there is none to ask for."""
    if not settings.is_local:
        try:
            return str(client("sts", settings).get_caller_identity()["Arn"])
        except (BotoCoreError, ClientError):  # the name is only shown to people, and the pause must not depend on it
            pass
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run with a user id that has no name
        return "an unnamed user"
