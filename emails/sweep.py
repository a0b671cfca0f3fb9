"""Finds rows that have lost their message, by scanning the table independently of the workers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from emails.message import InvalidMessage, check_email_id
from emails.status import ABANDON, DISCARD, EmailStatus
from emails.store import Conflict, StoreRefused, Wanted, epoch_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from emails.store import EmailStore, Row

FOUND = "found by sweep long after its claim ended: the provider may have accepted it"
WANTED = Wanted.with_status(
    {EmailStatus.PENDING, EmailStatus.SENDING},
    ("EmailId", "EmailStatus", "UpdatedAt", "SendAfter", "NextAttemptAt", "ClaimExpiresAt"),
)


@dataclass
class Report:
    """What a sweep did, or what a dry run would have done. `failed` maps ids to why SQS or DynamoDB refused them."""

    enqueued: int = 0
    abandoned: int = 0
    discarded: int = 0
    first_seen: int = 0
    read_units: float = 0
    failed: dict[str, str] = field(default_factory=dict)


class WrongPosition(Exception):
    """The file holds the position of another table's sweep, or no position at all. The text says what to do."""


class _Position(BaseModel):
    """The file of an interrupted sweep. `keys` has the key to continue each segment from, or None if it is done."""

    table: str
    keys: dict[str, dict[str, str] | None]


class Sweep:
    """One pass over the table.

    A Pending row is enqueued again if it is due and its UpdatedAt is at least `after` seconds old. If it is due but has
    no UpdatedAt, it gets one, and a later sweep enqueues it. If no worker would accept its EmailId, it becomes Failed.
    A Sending row becomes Unknown if its claim ended at least `after` seconds ago. Every step is a conditional write, so
    two sweeps at the same time do nothing twice.
    """

    def __init__(
        self, store: EmailStore, enqueue: Callable[[list[str]], dict[str, str]], after: float, *, dry_run: bool = False
    ) -> None:
        self._store = store
        self._enqueue = enqueue
        self._after = after
        self._dry_run = dry_run
        self.report = Report()  # what it has done so far

    def run(self, read_units_per_second: float, position: Path, progress: Callable[[Report], object]) -> Report:
        """Scan the table in four segments, at `read_units_per_second`.

        `position` is the file in which a sweep saves how far it got, so that it can continue after an interruption. The
        file is deleted at the end. A dry run does not use it.

        Raises:
            WrongPosition: the file does not hold a position of this table's sweep.
        """
        report = self.report
        keys: dict[str, Row | None] = {} if self._dry_run else self._read(position)
        for rows, units in self._store.scan(WANTED, read_units_per_second, keys):
            self._handle(rows, report)
            report.read_units += units
            if not self._dry_run:
                _replace(position, json.dumps({"table": self._store.table, "keys": keys}))
            progress(report)
        if not self._dry_run:
            position.unlink(missing_ok=True)
        return report

    def _read(self, position: Path) -> dict[str, Row | None]:
        advice = "Name another file with --position, or delete it to start again."
        try:
            found = _Position.model_validate_json(position.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError:
            raise WrongPosition(f"{position} is not a sweep's position file. {advice}") from None
        if found.table != self._store.table:
            raise WrongPosition(
                f"{position} is the position of a sweep of table {found.table}, not of {self._store.table}. {advice}"
            )
        return {**found.keys}

    def _handle(self, rows: list[Row], report: Report) -> None:
        due = []
        for row in rows:
            if row["EmailStatus"] == EmailStatus.PENDING and self._is_due(row):
                if why := _why_unusable(row["EmailId"]):
                    report.discarded += self._discard(row, why, report)
                else:
                    due.append(row)
        lost = [row["EmailId"] for row in due if row.get("UpdatedAt") and self._touch(row, report)]
        report.first_seen += sum(self._touch(row, report) for row in due if not row.get("UpdatedAt"))
        if not self._dry_run:
            failed = self._enqueue(lost)
            report.failed |= failed
            lost = [email_id for email_id in lost if email_id not in failed]
        report.enqueued += len(lost)
        claimed = (row for row in rows if row["EmailStatus"] == EmailStatus.SENDING)
        report.abandoned += sum(self._abandon(row, report) for row in claimed)

    def _is_due(self, row: Row) -> bool:
        """Whether the row should have been sent long ago, according to its times.

        A time that is missing or wrong counts as long ago: the row is then enqueued, and a worker judges it.
        """
        latest = time.time() - self._after
        times = [epoch_seconds(row.get(name)) for name in ("UpdatedAt", "SendAfter", "NextAttemptAt")]
        return all(moment <= latest for moment in times)

    def _touch(self, row: Row, report: Report) -> bool:
        return self._write(row, report, lambda: self._store.touch(row["EmailId"], row.get("UpdatedAt")))

    def _abandon(self, row: Row, report: Report) -> bool:
        if epoch_seconds(row.get("ClaimExpiresAt")) > time.time() - self._after:
            return False
        return self._write(row, report, lambda: self._store.end(row["EmailId"], ABANDON, FOUND))

    def _discard(self, row: Row, reason: str, report: Report) -> bool:
        return self._write(row, report, lambda: self._store.end(row["EmailId"], DISCARD, reason))

    def _write(self, row: Row, report: Report, write: Callable[[], None]) -> bool:
        """Write, unless this is a dry run. Returns False if the row has changed or DynamoDB refuses the write."""
        if self._dry_run:
            return True
        try:
            write()
        except Conflict:
            return False
        except StoreRefused as error:
            report.failed[row["EmailId"]] = str(error)
            return False
        return True


def _why_unusable(email_id: str) -> str:
    """Return why a message with this id would only become a dead letter, or ""."""
    try:
        check_email_id(email_id)
    except InvalidMessage as error:
        return error.detail
    return ""


def _replace(file: Path, text: str) -> None:
    """Write the whole file or nothing, so that a killed sweep leaves its last position and not half of one."""
    with NamedTemporaryFile("w", dir=file.parent, prefix=file.name, delete=False) as new:
        new.write(text)
    Path(new.name).replace(file)
