"""The backfill makes the index agree with the rows, whoever wrote them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from emails.backfill import Report, backfill
from emails.status import EmailStatus
from emails.store import Attention, Conflict, EmailStore, Entry
from tests.support.stage import pending_row

if TYPE_CHECKING:
    from settings import Settings

LONG_AGO = "2026-01-31T12:00:00.000+00:00"
SECONDS = 1_769_860_800
PLENTY = 1e9  # read units a second


@pytest.fixture
def attention(settings: Settings) -> Attention:
    return Attention.from_settings(settings)


def put(store: EmailStore, email_id: str, status: str, **attributes: Any) -> None:
    store.put(pending_row(email_id) | {"EmailStatus": status, "UpdatedAt": LONG_AGO} | attributes)


def test_what_failed_before_is_found_afterwards(store: EmailStore, attention: Attention) -> None:
    put(store, "failed", "Failed", FailureReason="no such mailbox")
    put(store, "unknown", "Unknown", FailureReason="no answer")
    put(store, "timeless", "Failed", UpdatedAt="soon")
    for status in set(EmailStatus) - {EmailStatus.FAILED, EmailStatus.UNKNOWN}:
        put(store, status, status)
    before = {status: store.get(status) for status in EmailStatus}
    assert list(attention.newest()) == []
    seen: list[int] = []
    report = backfill(store, attention, PLENTY, lambda so_far: seen.append(so_far.found))
    assert report == Report(found=3, corrected=3, read_units=report.read_units)
    assert report.read_units > 0
    assert seen[-1] == 3
    newest, *old = attention.newest()
    assert newest.email_id == "timeless", "it counts from now on"
    assert sorted(old, key=lambda entry: entry.email_id) == [
        Entry("failed", EmailStatus.FAILED, SECONDS, "no such mailbox"),
        Entry("unknown", EmailStatus.UNKNOWN, SECONDS, "no answer"),
    ]
    assert {status: store.get(status) for status in EmailStatus} == before
    assert backfill(store, attention, PLENTY, lambda _: None).corrected == 0, "it may be repeated"


def test_what_an_old_worker_left_is_corrected(store: EmailStore, attention: Attention) -> None:
    """An old worker's resend leaves the attributes behind, whatever becomes of the email."""
    left = {"AttentionKey": "Failed#3", "AttentionSince": 5}
    put(store, "sent", "Sent", **left)
    put(store, "own", "Waiting", **left)
    put(store, "unknown", "Unknown", FailureReason="no answer", **left)
    store.put({name: value for name, value in (pending_row("none") | left).items() if name != "EmailStatus"})
    report = backfill(store, attention, PLENTY, lambda _: None)
    assert (report.found, report.corrected) == (4, 4)
    assert list(attention.newest()) == [Entry("unknown", EmailStatus.UNKNOWN, SECONDS, "no answer")]
    for email_id in ("sent", "own", "none"):
        assert not left.keys() & (store.get(email_id) or {}).keys()


def test_a_row_that_changes_meanwhile_is_left_to_its_worker(store: EmailStore, attention: Attention) -> None:
    put(store, "changing", "Failed", FailureReason="no such mailbox")
    read = store.get("changing") or {}
    store.resend("changing")
    with pytest.raises(Conflict):
        attention.correct(read)
    put(store, "failed anew", "Failed")
    read = store.get("failed anew") or {}
    assert attention.correct(read)
    with pytest.raises(Conflict):
        attention.correct(read)
    with pytest.raises(Conflict):
        attention.correct(read | {"EmailId": "deleted"})
    assert store.get("deleted") is None
