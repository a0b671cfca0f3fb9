"""Limits how many emails per second all workers of a stage send together by each provider."""

from __future__ import annotations

import threading
import time
from collections import deque
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

from emails.store.items import Conflict, errors, serialize, to_row
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_dynamodb import DynamoDBClient

    from settings import Settings

# A row of the emails' table; no email's id has a line break. It belongs to the first provider of EMAIL_PROVIDER, and
# workers of versions that know only one rate use it too. The other providers have rows of their own.
ROW = "send rate\nof all workers"

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


def send_rates(settings: Settings, own_rates: Mapping[str, float]) -> dict[str, SendRate]:
    """Return the rates of the providers that have one: EMAIL_SEND_RATE, or else the provider's own."""
    rates = {name: settings.send_rate or own_rates.get(name) for name in settings.providers}
    if not any(rates.values()):
        return {}
    dynamodb = client("dynamodb", settings)
    return {
        name: SendRate(rate, partial(reserve, dynamodb, settings.table, row_of(name, settings)))
        for name, rate in rates.items()
        if rate
    }


def row_of(name: str, settings: Settings) -> str:
    """Return the key of the row from which the provider's turns are reserved."""
    return ROW if name == settings.provider[0] else f"{ROW}\nby {name}"


def reserve(client: DynamoDBClient, table: str, row: str, seconds: float) -> float:
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
                        Key={"EmailId": {"S": row}},
                        UpdateExpression=change,
                        ConditionExpression=condition,
                        ExpressionAttributeValues={name: serialize(value) for name, value in values.items()},
                        ReturnValues="UPDATED_NEW",
                    )
            except Conflict:
                continue
            return float((to_row(answer.get("Attributes")) or {})["ReservedUntil"]) - seconds
