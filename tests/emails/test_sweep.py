"""A sweep finds the rows that no message stands for, and does nothing to them twice."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from boto3.dynamodb.types import Binary
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emails.message import parse_message
from emails.raw_queue import enqueue_ids
from emails.status import EmailStatus
from emails.store import Conflict, EmailStore, StoreUnavailable
from emails.sweep import Report, Sweep
from settings.aws import client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery_sqs.sqs.queue import Queue
    from settings import Settings

    Row = dict[str, Any]

AFTER = 36_000
PLENTY = 1e9  # read units a second
MAX_ITEM_BYTES = 400 * 1024


def iso(seconds_ago: float) -> str:
    return datetime.fromtimestamp(time.time() - seconds_ago, UTC).isoformat()


OLD, YOUNG, SOON = iso(2 * AFTER), iso(AFTER / 2), iso(-2 * AFTER)


class Interrupted(Exception):
    """Ends a sweep in the middle."""


def nothing(_: Report) -> None:
    pass


def interrupt(_: Report) -> None:
    raise Interrupted


def limit_to_one(params: Row, **_: Any) -> None:
    params["Limit"] = 1


class Table:
    """The emails' rows, the raw queue, and sweeps over both."""

    def __init__(self, settings: Settings, queue: Queue, position: Path, row: Row) -> None:
        self._settings = settings
        self._queue = queue
        self._row = row
        self.position = position
        self.enqueue: Callable[[list[str]], dict[str, str]] = partial(enqueue_ids, queue)
        self.store = self.another_store()

    def another_store(self, kind: type[EmailStore] = EmailStore) -> EmailStore:
        return kind(client("dynamodb", self._settings), self._settings.table)

    def have_small_pages(self, store: EmailStore) -> None:
        """Make pages of one row each, as a table of many megabytes has several pages."""
        store._client.meta.events.register("provide-client-params.dynamodb.Scan", limit_to_one)

    def put(self, name: str, **attributes: Any) -> str:
        """Write a row that can be sent, with these attributes."""
        self.store.put(self._row | {"EmailId": name} | attributes)
        return name

    def rows(self) -> dict[str, Row]:
        items = self.another_store()._client.scan(TableName=self._settings.table)["Items"]
        return {item["EmailId"]["S"]: self.store.get(item["EmailId"]["S"]) or {} for item in items}

    def enqueued(self) -> list[str]:
        """Receive and delete the messages on the raw queue. Return their ids."""
        found = []
        while messages := self._queue.receive(10, 0, 30):
            found += [parse_message(message["Body"]) for message in messages]
        return sorted(found)

    def sweep(
        self,
        store: EmailStore | None = None,
        progress: Callable[[Report], object] = nothing,
        *,
        dry_run: bool = False,
        position: Path | None = None,
    ) -> Report:
        work = Sweep(store or self.store, self.enqueue, AFTER, dry_run=dry_run)
        return work.run(PLENTY, position or self.position, progress)


@pytest.fixture
def table(settings: Settings, raw_queue: Queue, tmp_path: Path, row: Row) -> Table:
    return Table(settings, raw_queue, tmp_path / "position", row)


@pytest.fixture
def small_pages(table: Table) -> None:
    table.have_small_pages(table.store)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that moves the time ahead until a row counts as left behind."""

    def jump() -> None:
        now = time.time() + AFTER + 1
        monkeypatch.setattr("emails.sweep.time", SimpleNamespace(time=lambda: now, monotonic=time.monotonic))

    return jump


# Pending rows


def test_a_pending_row_left_behind_is_enqueued_once(table: Table) -> None:
    table.put("left-behind", UpdatedAt=OLD)
    report = table.sweep()
    assert (report.enqueued, report.abandoned, report.first_seen, report.failed) == (1, 0, 0, {})
    assert report.read_units > 0
    assert table.enqueued() == ["left-behind"]
    found = table.rows()["left-behind"]
    assert (found["EmailStatus"], found["UpdatedAt"] > YOUNG) == ("Pending", True)
    assert table.sweep().enqueued == 0
    assert table.enqueued() == []
    assert not table.position.exists()


def test_more_rows_than_a_page_and_a_batch_are_all_enqueued(table: Table, small_pages: None) -> None:
    ids = sorted(table.put(f"left-{number}", UpdatedAt=OLD) for number in range(25))
    assert table.sweep().enqueued == 25
    assert table.enqueued() == ids


@pytest.mark.parametrize("empty", [..., None, ""], ids=["missing", "NULL", "empty"])
def test_a_row_without_updated_at_gets_it_first_and_is_enqueued_by_a_later_sweep(
    table: Table, later: Callable[[], None], empty: object
) -> None:
    table.put("new", **({} if empty is ... else {"UpdatedAt": empty}))
    report = table.sweep()
    assert (report.enqueued, report.first_seen) == (0, 1)
    found = table.rows()["new"]
    assert (found["EmailStatus"], found["UpdatedAt"] > YOUNG) == ("Pending", True)
    again = table.sweep()
    assert (again.enqueued, again.first_seen) == (0, 0), "its time is yet to come"
    assert table.enqueued() == []
    later()
    assert table.sweep().enqueued == 1
    assert table.enqueued() == ["new"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"UpdatedAt": YOUNG},
        {"UpdatedAt": OLD, "SendAfter": SOON},
        {"UpdatedAt": OLD, "SendAfter": YOUNG},
        {"UpdatedAt": OLD, "SendAfter": SOON.removesuffix("+00:00")},
        {"UpdatedAt": OLD, "NextAttemptAt": int(time.time()) + 2 * AFTER},
        {"UpdatedAt": OLD, "NextAttemptAt": int(time.time()) - AFTER // 2},
        {"SendAfter": SOON},
    ],
    ids=[
        "young",
        "scheduled",
        "due a moment ago",
        "scheduled in no time zone",
        "before its next attempt",
        "after its next attempt's time",
        "scheduled and never updated",
    ],
)
def test_a_pending_row_whose_time_has_not_long_come_is_left(table: Table, attributes: Row) -> None:
    table.put("waits", **attributes)
    before = table.rows()
    report = table.sweep()
    assert (report.enqueued, report.first_seen) == (0, 0)
    assert table.rows() == before
    assert table.enqueued() == []


# Sending rows


def test_a_claim_that_ended_long_ago_is_unknown_and_a_young_one_stays(table: Table) -> None:
    now = int(time.time())
    table.put("dead", EmailStatus="Sending", UpdatedAt=OLD, ClaimedBy="x", ClaimExpiresAt=now - 2 * AFTER)
    table.put("no-lease", EmailStatus="Sending", UpdatedAt=OLD)
    table.put("ended", EmailStatus="Sending", UpdatedAt=OLD, ClaimedBy="x", ClaimExpiresAt=now - AFTER // 2)
    table.put("alive", EmailStatus="Sending", UpdatedAt=OLD, ClaimedBy="x", ClaimExpiresAt=now + 60)
    before = table.rows()
    report = table.sweep()
    assert (report.enqueued, report.abandoned) == (0, 2)
    after = table.rows()
    for name in ("dead", "no-lease"):
        assert after[name]["EmailStatus"] == "Unknown"
        assert "may have accepted it" in after[name]["FailureReason"]
    for name in ("ended", "alive"):
        assert after[name] == before[name]
    assert table.enqueued() == []


# Rows that a sweep must not touch.


def test_final_and_foreign_statuses_are_left(table: Table) -> None:
    statuses = [status.value for status in EmailStatus if status not in {"Pending", "Sending"}]
    for number, status in enumerate([*statuses, "Waiting", "pending", "", None, 5, ["Pending"]]):
        table.put(f"row-{number}", EmailStatus=status, UpdatedAt=OLD, ClaimExpiresAt=1)
    table.store.put({"EmailId": "no-status", "UpdatedAt": OLD})
    before = table.rows()
    report = table.sweep()
    assert (report.enqueued, report.abandoned, report.first_seen) == (0, 0, 0)
    assert table.rows() == before
    assert table.enqueued() == []


ODD: list[Any] = [
    None,
    "",
    "yesterday",
    "2026-13-45",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "\u0000",
    "x" * 2000,
    True,
    -1,
    Decimal("9" * 38),
    Decimal("-9E+37"),
    Decimal("1E-128"),
    [],
    ["2026-01-31"],
    {},
    {"S": "2026-01-31"},
    {"a", "b"},
    {Decimal(1)},
    Binary(b""),
    Binary(b"\xff"),
]


def test_odd_values_of_its_attributes_stop_no_sweep_and_hinder_no_other_row(table: Table) -> None:
    for number, value in enumerate(ODD):
        for name in ("UpdatedAt", "SendAfter", "NextAttemptAt"):
            table.put(f"{name}-{number}", **{"UpdatedAt": OLD, name: value})
        table.put(f"ClaimExpiresAt-{number}", EmailStatus="Sending", ClaimExpiresAt=value)
    table.put("left-behind", UpdatedAt=OLD)
    report = table.sweep()
    found = table.enqueued()
    assert report.enqueued == len(found) == len(set(found)) > 2 * len(ODD)
    assert "left-behind" in found


def test_a_number_of_more_than_38_digits_is_odd_too(table: Table) -> None:
    """boto3 cannot read it (boto/boto3#4693)."""
    table.put("odd", UpdatedAt=OLD, NextAttemptAt=Decimal("-1E+38"))
    table.put("left-behind", UpdatedAt=OLD)
    table.sweep()
    assert table.enqueued() == ["left-behind", "odd"]


@pytest.mark.parametrize("email_id", [" ", "line\nbreak", "x" * 191], ids=["blank", "control character", "too long"])
@pytest.mark.parametrize("attributes", [{"UpdatedAt": OLD}, {}], ids=["left behind", "first seen"])
def test_a_pending_row_whose_id_no_worker_takes_is_failed_and_not_enqueued(
    table: Table, email_id: str, attributes: Row
) -> None:
    table.put(email_id, **attributes)
    assert table.sweep(dry_run=True).discarded == 1
    assert table.sweep().discarded == 1
    row = table.rows()[email_id]
    assert row["EmailStatus"] == "Failed"
    assert row["FailureReason"].startswith("email_id ")
    assert table.sweep().discarded == 0
    assert table.enqueued() == []


class ScriptedStore(EmailStore):
    """A store with these rows in one page, which refuses every write."""

    def __init__(self, *rows: Row) -> None:
        self.table = "scripted"
        self._rows = rows

    def scan(self, *_: object) -> Iterator[tuple[list[Row], float]]:
        yield list(self._rows), 1

    def touch(self, email_id: str, seen: str | None) -> None:
        raise Conflict({})

    def end(self, *arguments: object) -> None:
        raise Conflict({})


def enqueue_nothing(email_ids: list[str]) -> dict[str, str]:
    assert email_ids == []
    return {}


moments = (
    st.none()
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.datetimes(timezones=st.none() | st.timezones()).map(datetime.isoformat)
    | st.dates().map(str)
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("UpdatedAt", "SendAfter", "NextAttemptAt"), moments)), moments)
@hypothesis_settings(max_examples=200, deadline=None)
def test_whatever_a_producer_writes_as_a_time_is_judged(
    tmp_path_factory: pytest.TempPathFactory, attributes: Row, claim_expires_at: object
) -> None:
    store = ScriptedStore(
        {"EmailId": "1", "EmailStatus": "Pending", **attributes},
        {"EmailId": "2", "EmailStatus": "Sending", "ClaimExpiresAt": claim_expires_at},
    )
    work = Sweep(store, enqueue_nothing, AFTER)  # type: ignore[arg-type]  # the queue is a double
    report = work.run(PLENTY, tmp_path_factory.getbasetemp() / "position", nothing)
    assert (report.enqueued, report.abandoned, report.first_seen) == (0, 0, 0), "the store took no write"


# Two at once


def test_two_sweeps_at_once_do_nothing_twice(table: Table) -> None:
    for number in range(20):
        table.put(f"left-{number}", UpdatedAt=OLD)
        table.put(f"new-{number}")
        table.put(f"dead-{number}", EmailStatus="Sending", ClaimExpiresAt=1)
    both_have_read = threading.Barrier(2)

    class Meeting(EmailStore):
        """A store that returns what it scanned after the other sweep has scanned it, too."""

        def scan(self, *arguments: Any) -> Any:
            for page in super().scan(*arguments):
                both_have_read.wait(20)
                yield page

    def run(name: str) -> Report:
        return table.sweep(table.another_store(Meeting), position=table.position.with_name(name))

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(run, ("one", "other"))
    assert one.enqueued + other.enqueued == 20
    assert one.abandoned + other.abandoned == 20
    assert one.first_seen + other.first_seen == 20
    assert table.enqueued() == sorted(f"left-{number}" for number in range(20))
    assert sum(row["EmailStatus"] == "Unknown" for row in table.rows().values()) == 20


def test_two_sweeps_may_share_their_position(table: Table) -> None:
    ids = sorted(table.put(f"left-{number}", UpdatedAt=OLD) for number in range(40))

    def run(_: int) -> Report:
        store = table.another_store()
        table.have_small_pages(store)
        return table.sweep(store)

    with ThreadPoolExecutor(2) as threads:
        reports = list(threads.map(run, range(2)))
    assert sum(report.enqueued for report in reports) == len(ids)
    assert table.enqueued() == ids
    assert list(table.position.parent.iterdir()) == []


# Dry run


def test_a_dry_run_reports_the_same_and_writes_nothing(table: Table, small_pages: None) -> None:
    for number in range(7):
        table.put(f"left-{number}", UpdatedAt=OLD)
    for number in range(5):
        table.put(f"new-{number}")
        table.put(f"young-{number}", UpdatedAt=YOUNG)
    for number in range(3):
        table.put(f"dead-{number}", EmailStatus="Sending", ClaimExpiresAt=1)
    before = table.rows()
    would = table.sweep(dry_run=True)
    assert (table.rows(), table.enqueued(), table.position.exists()) == (before, [], False)
    assert table.sweep() == would
    assert (would.enqueued, would.first_seen, would.abandoned) == (7, 5, 3)
    assert len(table.enqueued()) == 7


def test_a_dry_run_sees_the_whole_table_and_leaves_the_position_of_a_real_sweep(table: Table) -> None:
    table.put("left-behind", UpdatedAt=OLD)
    through = json.dumps({"table": table.store.table, "keys": dict.fromkeys(("0", "1", "2", "3"))})
    table.position.write_text(through)
    assert table.sweep(dry_run=True).enqueued == 1
    assert table.position.read_text() == through


# Interrupted


@pytest.mark.parametrize("rounds", [1, 3, 4])
def test_an_interrupted_sweep_goes_on_from_where_it_was(table: Table, small_pages: None, rounds: int) -> None:
    asked: list[tuple[int, str]] = []
    reports: list[Report] = []

    def note(params: Row, **_: Any) -> None:
        asked.append((params["Segment"], json.dumps(params.get("ExclusiveStartKey"))))

    def interrupt_later(report: Report) -> None:
        reports.append(report)
        if len(reports) == rounds:
            raise Interrupted

    table.store._client.meta.events.register("provide-client-params.dynamodb.Scan", note)
    ids = sorted(table.put(f"left-{number}", UpdatedAt=OLD) for number in range(16))
    with pytest.raises(Interrupted):
        table.sweep(progress=interrupt_later)
    first = table.enqueued()
    assert 0 < len(first) < len(ids)
    assert table.sweep().enqueued == len(ids) - len(first)
    assert sorted(first + table.enqueued()) == ids
    assert len(asked) == len(set(asked)), "a page was read twice"
    assert not table.position.exists()


@pytest.mark.parametrize("pages", [0, 1, 3, 5, 9])
def test_a_sweep_whose_table_becomes_unavailable_is_finished_by_the_next(
    table: Table, small_pages: None, pages: int
) -> None:
    ids = sorted(table.put(f"left-{number}", UpdatedAt=OLD) for number in range(12))
    left = iter(range(pages))

    def fail_after_these(**_: Any) -> None:
        if next(left, None) is None:
            raise StoreUnavailable("away")

    failing = table.another_store()
    table.have_small_pages(failing)
    failing._client.meta.events.register("provide-client-params.dynamodb.Scan", fail_after_these)
    with pytest.raises(StoreUnavailable):
        table.sweep(failing)
    first = table.enqueued()
    assert table.sweep().enqueued == len(ids) - len(first)
    assert sorted(first + table.enqueued()) == ids
    assert not table.position.exists()


def test_its_position_is_replaced_whole_so_that_a_kill_leaves_no_half_of_it(table: Table, small_pages: None) -> None:
    for number in range(12):
        table.put(f"left-{number}", UpdatedAt=OLD)
    start = json.dumps({"table": table.store.table, "keys": {}})
    table.position.write_text(start)
    with table.position.open() as opened:
        with pytest.raises(Interrupted):
            table.sweep(progress=interrupt)
        assert opened.read() == start
    assert json.loads(table.position.read_text())["keys"].keys() == {"0", "1", "2", "3"}
    assert list(table.position.parent.iterdir()) == [table.position]


# Pace


class PagedTable:
    """A client whose table has so many pages with so many read units in each segment."""

    def __init__(self, pages: int, units: float) -> None:
        self._pages = pages
        self._units = units

    def scan(self, ExclusiveStartKey: Any = None, **_: object) -> Row:  # noqa: N803 (boto3's name)
        number = int(ExclusiveStartKey["EmailId"]["S"] if ExclusiveStartKey else "0") + 1
        more = {"LastEvaluatedKey": {"EmailId": {"S": str(number)}}} if number < self._pages else {}
        return {"Items": [], "ConsumedCapacity": {"CapacityUnits": self._units}, **more}


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list of its sleeps, with a clock on which every round takes 0.1 s."""
    slept: list[float] = []
    tenths = iter(range(1000))
    clock = SimpleNamespace(monotonic=lambda: next(tenths) / 10, time=time.time, sleep=slept.append)
    monkeypatch.setattr("emails.store.scans.time", clock)
    return slept


@pytest.mark.parametrize(("units_a_second", "nap"), [(10, 0.3), (20, 0.1), (4000, 0)], ids=["slow", "medium", "fast"])
def test_it_reads_at_the_pace_that_it_was_given(
    naps: list[float], tmp_path: Path, units_a_second: float, nap: float
) -> None:
    store = EmailStore(PagedTable(pages=4, units=1), "paged")  # type: ignore[arg-type]  # the client is a double
    work = Sweep(store, enqueue_nothing, AFTER)  # type: ignore[arg-type]  # the queue is a double
    report = work.run(units_a_second, tmp_path / "position", nothing)
    assert report.read_units == 16
    # A round reads a page of each of the four segments. After the last round there is no need to wait.
    assert naps == pytest.approx([nap] * 3)


# What fails


def test_what_sqs_does_not_take_is_reported_and_found_by_a_later_sweep(
    table: Table, later: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = sorted(table.put(f"left-{number}", UpdatedAt=OLD) for number in range(12))
    enqueue = table.enqueue

    def refuse_some(email_ids: list[str]) -> dict[str, str]:
        enqueue([email_id for email_id in email_ids if not email_id.endswith("1")])
        return {email_id: "InternalError" for email_id in email_ids if email_id.endswith("1")}

    with monkeypatch.context() as patch:
        patch.setattr(table, "enqueue", refuse_some)
        report = table.sweep()
    assert report.failed == {"left-1": "InternalError", "left-11": "InternalError"}
    assert report.enqueued == 10
    assert table.enqueued() == sorted(set(ids) - report.failed.keys())
    later()
    assert table.sweep().enqueued == 12
    assert table.enqueued() == ids


@pytest.mark.parametrize("status", ["Pending", "Sending"])
def test_a_row_too_big_to_write_to_is_reported_and_holds_up_no_other(table: Table, status: str) -> None:
    full = {"EmailId": "full", "EmailStatus": status, "BodyText": ""}
    full["BodyText"] = "x" * (MAX_ITEM_BYTES - sum(len(name + value) for name, value in full.items()))
    table.store.put(full)
    table.put("left-behind", UpdatedAt=OLD)
    report = table.sweep()
    assert report.failed == {"full": "DynamoDB refused the request: ValidationException"}
    assert (report.enqueued, report.first_seen, report.abandoned) == (1, 0, 0)
    assert table.enqueued() == ["left-behind"]
    assert not table.position.exists()
