"""Limits how many emails per second all workers of a stage send together."""

from __future__ import annotations

import threading
import time
from collections import deque
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Self

from emails.store.items import Conflict, errors, serialize, to_row
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_dynamodb import DynamoDBClient

    from settings import Settings

ROW = "send rate\nof all workers"  # a row of the emails' table; no email's id has a line break

# A turn that is later than this is lost. Otherwise a worker that was held up would send two seconds' emails in one.
LATEST_SECONDS = 1.0


class SendRate:
    """Gives out turns to send: `per_second` in all workers together. Thread-safe.

    `reserve(seconds)` reserves part of the time that all workers share, and returns when it starts (epoch seconds). One
    call reserves a turn for each thread that is waiting, up to the turns of one second.
    """

    def __init__(self, per_second: float, reserve: Callable[[float], float]) -> None:
        self._per_second = per_second
        self._reserve = reserve
        self._turns: deque[float] = deque()
        self._lock = threading.Lock()
        self._waiting = 0
        self._closed = threading.Event()

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """Return the rate that all workers of the stage keep to, or None if the settings have none."""
        if not settings.send_rate:
            return None
        return cls(settings.send_rate, partial(reserve, client("dynamodb", settings), settings.table))

    def wait(self) -> bool:
        """Wait for a turn. Returns False if `close` was called in the meantime. Raises what `reserve` raises."""
        while True:
            turn = self._next()
            if self._closed.wait(max(0, turn - time.time())):
                return False
            if time.time() - turn <= LATEST_SECONDS:
                return True

    def close(self) -> None:
        """End every current and later `wait`."""
        self._closed.set()

    def _next(self) -> float:
        self._waiting += 1  # not exact if several threads do this, and it need not be
        try:
            with self._lock:
                while self._turns and time.time() - self._turns[0] > LATEST_SECONDS:
                    self._turns.popleft()
                if not self._turns:
                    count = max(1, min(self._waiting, int(self._per_second)))
                    start = self._reserve(count / self._per_second)
                    self._turns.extend(start + number / self._per_second for number in range(count))
                return self._turns.popleft()
        finally:
            self._waiting -= 1


def reserve(client: DynamoDBClient, table: str, seconds: float) -> float:
    """Reserve part of the time that all workers of the stage share, after what is reserved already.

    Returns when the reserved time starts (epoch seconds). May raise StoreUnavailable or StoreRefused.
    """
    later = "SET ReservedUntil = ReservedUntil + :seconds", "ReservedUntil > :now"
    anew = "SET ReservedUntil = :now + :seconds", "(attribute_not_exists(EmailId) OR ReservedUntil <= :now)"
    while True:
        values = {":now": Decimal(f"{time.time():.6f}"), ":seconds": Decimal(f"{seconds:.6f}")}
        for change, condition in (later, anew):
            try:
                with errors():
                    answer = client.update_item(
                        TableName=table,
                        Key={"EmailId": {"S": ROW}},
                        UpdateExpression=change,
                        ConditionExpression=condition,
                        ExpressionAttributeValues={name: serialize(value) for name, value in values.items()},
                        ReturnValues="UPDATED_NEW",
                    )
            except Conflict:
                continue
            return float((to_row(answer.get("Attributes")) or {})["ReservedUntil"]) - seconds
