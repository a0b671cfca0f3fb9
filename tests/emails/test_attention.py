"""Emails that need a person are in the index as long as they do, and are read from it the newest first."""

from __future__ import annotations

import json
import threading
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from emails.claim_tokens import new_token
from emails.providers.contract import Receipt
from emails.status import ABANDON, CLAIM, DISCARD, NEEDS_PERSON, TRACK, EmailStatus
from emails.store import Attention, Claim, EmailStore, Entry, IndexMissing
from emails.store.attention import AT_ONCE, MOST_REASONS, SHARDS, Tally, marks
from settings.aws import client
from tests.support.groups import always_grouped
from tests.support.stage import new_stage, pending_row, without_index, write_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from settings import Settings

LEASE = 60
RECEIPT = Receipt("stub", "<id@example.com>", "accepted", accepted_at=1_769_860_800)
FAILED, UNKNOWN = EmailStatus.FAILED, EmailStatus.UNKNOWN


@pytest.fixture
def attention(settings: Settings) -> Attention:
    return Attention.from_settings(settings)


def fail_later(settings: Settings, patch: pytest.MonkeyPatch, counts: dict[int, int]) -> None:
    """Let so many emails fail at each of these times."""
    store = EmailStore.from_settings(settings)
    for moment, count in counts.items():
        patch.setattr("time.time", lambda moment=moment: moment)
        for number in range(count):
            store.put(pending_row(f"at-{moment}-{number}"))
            store.end(f"at-{moment}-{number}", DISCARD, f"reason {number % 3}")


# What brings an email to a status that needs a person, and what takes it out again.

ENTRANCES: dict[str, Callable[[EmailStore, Claim], None]] = {
    "FAIL": lambda store, claim: store.fail(claim, "no such mailbox"),
    "MARK_UNKNOWN": lambda store, claim: store.mark_unknown(claim, "no answer"),
    "ABANDON": lambda store, claim: store.end(claim.email_id, ABANDON, "abandoned"),
}
EXITS: dict[str, Callable[[EmailStore, Claim], None]] = {
    "RESOLVE_SENT": lambda store, claim: store.resolve_sent(claim.email_id),
    "RESEND": lambda store, claim: store.resend(claim.email_id),
    **{
        f"TRACK {status}": lambda store, claim, arrow=arrow: store.track(claim.email_id, arrow, "")
        for status, arrow in TRACK.items()
    },
}


@pytest.mark.parametrize("enters", ENTRANCES.values(), ids=ENTRANCES)
def test_an_email_is_in_the_index_as_long_as_it_needs_a_person(
    store: EmailStore, attention: Attention, enters: Callable[[EmailStore, Claim], None]
) -> None:
    for name, leaves in EXITS.items():
        store.put(pending_row(name))
        claim = store.claim(name, lease=-5)
        assert list(attention.newest()) == []
        enters(store, claim)
        stands = store.get(name) or {}
        status, since, reason = stands["EmailStatus"], stands["AttentionSince"], stands["FailureReason"]
        assert list(attention.newest()) == [Entry(name, EmailStatus(status), int(since), reason)]
        leaves(store, claim)
        assert list(attention.newest()) == []
        assert not {"AttentionKey", "AttentionSince"} & (store.get(name) or {}).keys()


def test_a_late_record_and_a_take_over_take_an_unknown_email_out_of_the_index(
    store: EmailStore, attention: Attention
) -> None:
    for email_id in ("recorded", "taken over"):
        store.put(pending_row(email_id))
    claim = store.claim("recorded", lease=-5)
    store.end("recorded", ABANDON, "abandoned")
    always_grouped(store).record(claim, RECEIPT)
    assert (store.get("recorded") or {})["EmailStatus"] == "Sent"
    token = new_token()
    store._take("taken over", CLAIM, token, 1, {})
    store.end("taken over", ABANDON, "abandoned")
    assert [entry.email_id for entry in attention.newest()] == ["taken over"]
    store.take_over("taken over", token, lease=LEASE)
    assert list(attention.newest()) == []
    for email_id in ("recorded", "taken over"):
        assert "AttentionKey" not in (store.get(email_id) or {})


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "alone"])
def test_an_email_that_is_sent_without_trouble_costs_no_writes_to_the_index(settings: Settings, grouped: bool) -> None:
    counted: Counter[str] = Counter()
    requests: list[str] = []
    dynamodb: Any = client("dynamodb", settings)

    def ask_for_units(params: dict[str, Any], **_: Any) -> None:
        params["ReturnConsumedCapacity"] = "INDEXES"

    def count(parsed: dict[str, Any], **_: Any) -> None:
        consumed = parsed.get("ConsumedCapacity", [])
        for each in consumed if isinstance(consumed, list) else [consumed]:
            counted["table"] += each.get("Table", {}).get("CapacityUnits", 0) or each["CapacityUnits"]
            indexes = each.get("GlobalSecondaryIndexes", {})
            counted["index"] += sum(index["CapacityUnits"] for index in indexes.values())

    def keep(request: Any, **_: Any) -> None:
        requests.append(request.body if isinstance(request.body, str) else request.body.decode())

    for action in ("UpdateItem", "BatchExecuteStatement"):
        dynamodb.meta.events.register(f"provide-client-params.dynamodb.{action}", ask_for_units)
        dynamodb.meta.events.register(f"after-call.dynamodb.{action}", count)
        dynamodb.meta.events.register(f"before-send.dynamodb.{action}", keep)
    store = EmailStore(dynamodb, settings.table, grouped=grouped)
    if grouped:
        always_grouped(store)
    store.put(pending_row("fine"))
    store.record(store.claim("fine", lease=LEASE), RECEIPT)
    store.track("fine", TRACK[EmailStatus.DELIVERED], "")
    assert counted["table"] >= 3
    assert counted["index"] == 0
    if grouped:
        assert not any("Attention" in request for request in requests if '"Statements"' in request)
    store.put(pending_row("failed"))
    store.fail(store.claim("failed", lease=LEASE), "no such mailbox")
    assert counted["index"] > 0, "otherwise nothing would be counted at all"


# What workers of an older version leave, which do not know the attributes


@pytest.fixture
def resent_by_an_old_worker(store: EmailStore, row: dict[str, Any]) -> str:
    """An email that failed, and that an older version has made Pending again."""
    store.put(row)
    store.fail(store.claim(row["EmailId"], lease=LEASE), "no such mailbox")
    store._client.update_item(
        TableName=store.table,
        Key={"EmailId": {"S": row["EmailId"]}},
        UpdateExpression="SET EmailStatus = :pending REMOVE Attempts, ClaimedBy, ClaimExpiresAt, FailureReason",
        ExpressionAttributeValues={":pending": {"S": "Pending"}},
    )
    return str(row["EmailId"])


def test_a_row_whose_status_is_no_longer_that_of_its_key_is_left_out(
    attention: Attention, resent_by_an_old_worker: str
) -> None:
    assert list(attention.newest()) == []
    assert attention.page(10).entries == []
    assert attention.count(FAILED, 10) == 0


def test_the_record_of_a_send_removes_what_an_old_worker_left(store: EmailStore, resent_by_an_old_worker: str) -> None:
    always_grouped(store).record(store.claim(resent_by_an_old_worker, lease=LEASE), RECEIPT)
    found = store.get(resent_by_an_old_worker) or {}
    assert found["EmailStatus"] == "Sent"
    assert not {"AttentionKey", "AttentionSince"} & found.keys()


def test_a_row_that_an_old_worker_failed_leaves_its_status_as_any_other(store: EmailStore) -> None:
    for name, leaves in EXITS.items():
        store.put(pending_row(name) | {"EmailStatus": "Failed", "FailureReason": "no such mailbox"})
        leaves(store, Claim(name, "", 0, {}))
        assert (store.get(name) or {})["EmailStatus"] != "Failed"


# How the index is read


@pytest.fixture(scope="module")
def outage(emulator: str) -> Settings:
    """A stage in which 90 emails failed, 30 at each of three times, and 10 became Unknown later."""
    settings = new_stage(emulator)
    with pytest.MonkeyPatch.context() as patch:
        fail_later(settings, patch, {1000: 30, 2000: 30, 3000: 30})
    store = EmailStore.from_settings(settings)
    for number in range(10):
        store.put(pending_row(f"unknown-{number}"))
        store.mark_unknown(store.claim(f"unknown-{number}", lease=LEASE), "no answer")
    return settings


@pytest.fixture(params=[1, 7, 250], ids=lambda size: f"pages of {size}")
def read(outage: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Attention:
    """The outage's index, which is read in pages of different sizes."""
    monkeypatch.setattr("emails.store.attention.PAGE", request.param)
    return Attention.from_settings(outage)


def test_the_newest_come_first(read: Attention) -> None:
    entries = list(read.newest())
    assert len({entry.email_id for entry in entries}) == len(entries) == 100
    assert all(one.since >= other.since for one, other in pairwise(entries))
    assert {entry.status for entry in entries[:10]} == {UNKNOWN}
    assert Counter(entry.since for entry in read.newest({FAILED})) == {1000: 30, 2000: 30, 3000: 30}
    assert {entry.email_id for entry in read.newest({UNKNOWN})} == {f"unknown-{number}" for number in range(10)}


def test_entries_are_chosen_by_time_and_by_reason(read: Attention) -> None:
    assert len(list(read.newest({FAILED}, since=2000))) == 60
    assert {entry.reason for entry in read.newest(reason="REASON 1")} == {"reason 1"}
    assert read.tally({FAILED}, since=2000, reason="reason") == Tally(
        60, Counter({"reason 0": 20, "reason 1": 20, "reason 2": 20})
    )


@pytest.mark.parametrize("size", [7, 33, 99, 100, 1000])
def test_pages_continue_each_other(outage: Settings, size: int) -> None:
    attention, found, after = Attention.from_settings(outage), [], ""
    while True:
        page = attention.page(size, after)
        found += page.entries
        after = page.next
        if not after:
            break
        assert len(page.entries) == size
    assert len(found) == len({entry.email_id for entry in found}) == 100
    assert all(one.since >= other.since for one, other in pairwise(found))


@pytest.mark.parametrize(
    "after",
    ["no page", "[]", "1", '{"Failed#1": 1}', '{"Failed#1": [1e999, "x"]}', '{"Failed#1": [1, "\\ud800"]}', "[" * 9999],
)
def test_what_is_not_the_next_of_a_page_is_refused(outage: Settings, after: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (its text is json's or Python's)
        Attention.from_settings(outage).page(10, after)


@pytest.mark.parametrize(("most", "counted"), [(1000, 90), (90, 90), (50, 50), (1, 1)])
def test_counting_stops_at_the_most(outage: Settings, most: int, counted: int) -> None:
    attention = Attention.from_settings(outage)
    assert attention.count(FAILED, most) == counted
    assert attention.count(UNKNOWN, most) == min(10, most)


def test_emails_spread_over_the_shards() -> None:
    keys = Counter(marks(FAILED, f"order-{number}")["AttentionKey"] for number in range(16_000))
    assert len(keys) == SHARDS
    assert max(keys.values()) < 1200
    assert marks(FAILED, "order-1")["AttentionKey"] == marks(FAILED, "order-1", 5)["AttentionKey"]
    assert all(not marks(status, "order-1") for status in set(EmailStatus) - NEEDS_PERSON)


def test_only_so_many_reasons_are_told_apart() -> None:
    tally = Tally()
    for number in range(MOST_REASONS + 5):
        tally.add(f"message {number}")
    tally.add("message 1")
    assert tally.total == MOST_REASONS + 6
    assert len(tally.by_reason) == MOST_REASONS
    assert tally.by_reason["message 1"] == 2
    assert tally.others == 5


def test_a_table_without_the_index_is_told_from_other_errors(settings: Settings) -> None:
    without_index(settings)
    attention = Attention.from_settings(settings)
    with pytest.raises(IndexMissing):
        list(attention.newest())
    with pytest.raises(IndexMissing):
        attention.count(FAILED, 10)


def test_many_thousands_are_read_with_few_in_memory(settings: Settings) -> None:
    """Only one page of each shard is held, whatever the index has."""
    ids = [f"bulk-{number}" for number in range(3000)]
    for key in (f"Failed#{number}" for number in range(SHARDS)):
        share = [email_id for email_id in ids if marks(FAILED, email_id)["AttentionKey"] == key]
        row = {"EmailStatus": "Failed", "FailureReason": "down", "AttentionKey": key, "AttentionSince": 5}
        write_rows(settings, row, share)
    asked: list[int] = []
    attention = Attention.from_settings(settings)
    dynamodb: Any = attention._client
    dynamodb.meta.events.register(
        "before-send.dynamodb.Query", lambda request, **_: asked.append(json.loads(request.body)["Limit"])
    )
    entries = attention.newest({FAILED})
    next(entries)
    assert asked == [250] * SHARDS
    assert 1 + sum(1 for _ in entries) == 3000


def test_the_shards_are_read_at_the_same_time(settings: Settings) -> None:
    """Otherwise, the first entry would take 32 round trips."""
    together = threading.Barrier(AT_ONCE)
    attention = Attention.from_settings(settings)
    dynamodb: Any = attention._client

    def wait(**_: object) -> None:
        together.wait(30)

    dynamodb.meta.events.register("before-send.dynamodb.Query", wait)
    assert list(attention.newest({FAILED})) == []
