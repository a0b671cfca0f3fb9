"""Every write is conditional, and takes effect once, however often it is sent."""

from __future__ import annotations

import json
import math
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from boto3.dynamodb.types import Binary
from botocore.stub import Stubber
from hypothesis import given
from hypothesis import strategies as st
from pydantic import HttpUrl

from emails.claim_tokens import claim_id, new_token
from emails.providers.contract import Receipt
from emails.status import (
    ABANDON,
    ADD_RECEIPT,
    DISCARD,
    FAIL,
    GIVE_BACK,
    MARK_UNKNOWN,
    RECORD,
    TRACK,
    EmailStatus,
    Transition,
)
from emails.store import Claim, ClaimUnanswered, Conflict, EmailStore, StoreRefused, StoreUnavailable
from emails.store.items import to_item, to_row
from emails.store.rows import MAX_REASON
from emails.sweep import WANTED
from settings import Settings
from settings.aws import client
from tests.support.groups import always_grouped
from tests.support.stage import new_stage

if TYPE_CHECKING:
    from collections.abc import Callable

LEASE = 60

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@hypothesis.settings(deadline=None)
@given(json_values | st.integers(0, 40).map(lambda depth: json.loads("[" * depth + "1" + "]" * depth)))
def test_any_value_is_stored_as_it_is_or_refused_with_its_attribute(value: object) -> None:
    row = {"EmailId": "email-1", "Customer": value}
    said = ""
    try:
        assert to_row(to_item(row)) == row
    except StoreRefused as refused:
        said = str(refused)
    assert not said or re.fullmatch("Customer: has [^;]+", said)


RECEIPT = Receipt("stub", "<id@example.com>", "accepted", accepted_at=1_769_860_800)

# The results that the holder of a claim may write.
OUTCOMES: dict[Transition, Callable[[EmailStore, Claim], None]] = {
    RECORD: lambda store, claim: store.record(claim, RECEIPT),
    GIVE_BACK: lambda store, claim: store.give_back(claim, next_attempt_at=time.time() + 5, reason="busy"),
    FAIL: lambda store, claim: store.fail(claim, "no such mailbox"),
    MARK_UNKNOWN: lambda store, claim: store.mark_unknown(claim, "no answer"),
}
each_outcome = pytest.mark.parametrize("outcome", OUTCOMES, ids=["record", "give_back", "fail", "mark_unknown"])

EMPTY_BUT_NO_NULL = [[], {}, Binary(b"")]


@pytest.fixture(scope="module")
def settings(emulator: str) -> Settings:
    """Return the settings of one table for all tests, in which each row has its own id."""
    return new_stage(emulator, "store")


@pytest.fixture(scope="module", params=["grouped", "not grouped"])
def store(request: pytest.FixtureRequest, settings: Settings) -> EmailStore:
    if request.param == "grouped":
        return always_grouped(EmailStore.from_settings(settings))
    return EmailStore.from_settings(settings.model_copy(update={"grouped_requests": False}))


@pytest.fixture
def claim(store: EmailStore, row: dict[str, Any]) -> Claim:
    store.put(row)
    return store.claim(row["EmailId"], lease=LEASE)


def is_now(store: EmailStore, email_id: str) -> dict[str, Any]:
    found = store.get(email_id)
    assert found is not None
    return found


def test_a_row_is_read_as_it_was_written(store: EmailStore, row: dict[str, Any]) -> None:
    row |= {
        "RecipientsCc": {"a@example.com", "b@example.com"},
        "Tags": {"team": None},
        "Customer": [Decimal("1.5"), True],
    }
    store.put(row)
    assert store.get(row["EmailId"]) == row
    assert store.get("none such") is None


def test_the_statuses_of_a_hundred_rows_come_at_once(store: EmailStore, row: dict[str, Any]) -> None:
    ids = [f"{row['EmailId']}-{number}" for number in range(100)]
    store.put(row | {"EmailId": ids[0]})
    store.put(row | {"EmailId": ids[1], "EmailStatus": "Sent"})
    store.put(row | {"EmailId": ids[2], "EmailStatus": None})
    assert store.statuses(ids) == {ids[0]: "Pending", ids[1]: "Sent", ids[2]: None}
    assert store.statuses([ids[0], ids[0]]) == {ids[0]: "Pending"}


def test_keys_that_a_batch_left_out_are_asked_for_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emails.store.rows.BATCH_DELAY", 0)
    keys = [{"EmailId": {"S": "one"}}, {"EmailId": {"S": "two"}}]
    request = {"ProjectionExpression": "EmailId, EmailStatus", "ConsistentRead": True}
    dynamodb = client("dynamodb", settings)
    with Stubber(dynamodb) as stubber:
        for asked, found, left in ((keys, "one", keys[1:]), (keys[1:], "two", [])):
            answer = {
                "Responses": {"t": [{"EmailId": {"S": found}, "EmailStatus": {"S": "Sent"}}]},
                "UnprocessedKeys": {"t": {"Keys": left}} if left else {},
            }
            stubber.add_response("batch_get_item", answer, {"RequestItems": {"t": request | {"Keys": asked}}})
        assert EmailStore(dynamodb, "t").statuses(["one", "two"]) == {"one": "Sent", "two": "Sent"}


def test_a_table_that_stays_throttled_is_unavailable(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emails.store.rows.BATCH_DELAY", 0)
    monkeypatch.setattr("emails.store.rows.BATCH_ATTEMPTS", 2)
    dynamodb = client("dynamodb", settings)
    with Stubber(dynamodb) as stubber:
        for _ in range(2):
            left = {"t": {"Keys": [{"EmailId": {"S": "one"}}]}}
            stubber.add_response("batch_get_item", {"Responses": {}, "UnprocessedKeys": left})
        with pytest.raises(StoreUnavailable, match="throttles"):
            EmailStore(dynamodb, "t").statuses(["one"])


def test_an_id_that_has_a_row_gets_no_other(store: EmailStore, row: dict[str, Any]) -> None:
    store.put(row)
    with pytest.raises(Conflict) as raised:
        store.put({**row, "Subject": "Other"})
    assert raised.value.row == row
    assert store.get(row["EmailId"]) == row


def test_a_claim_is_counted_and_brings_the_row(store: EmailStore, row: dict[str, Any]) -> None:
    store.put({**row, "Unknown attribute": "kept"})
    before = int(time.time())
    claim = store.claim(row["EmailId"], lease=LEASE)
    assert before + LEASE <= claim.expires_at <= time.time() + LEASE
    assert claim.row == is_now(store, row["EmailId"])
    changed = {name: value for name, value in claim.row.items() if row.get(name) != value}
    assert changed.pop("UpdatedAt").endswith("+00:00")
    assert changed == {
        "EmailStatus": "Sending",
        "ClaimedBy": claim.id,
        "ClaimExpiresAt": claim.expires_at,
        "Attempts": 1,
        "Unknown attribute": "kept",
    }


def test_one_of_many_claims_at_once_wins(store: EmailStore, row: dict[str, Any]) -> None:
    def wins(_: int) -> bool:
        try:
            store.claim(row["EmailId"], lease=LEASE)
        except Conflict:
            return False
        return True

    store.put(row)
    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(wins, range(16))) == 1
    assert is_now(store, row["EmailId"])["Attempts"] == 1


def test_there_is_nothing_to_claim_without_a_row(store: EmailStore) -> None:
    with pytest.raises(Conflict) as raised:
        store.claim("none such", lease=LEASE)
    assert raised.value.row is None
    assert store.get("none such") is None, "an update would have made it"


@pytest.mark.parametrize(
    "status", [*(s.value for s in EmailStatus if s != "Pending"), "Waiting", "pending", "", None, 5]
)
def test_what_is_not_pending_is_not_claimed(store: EmailStore, row: dict[str, Any], status: object) -> None:
    store.put({**row, "EmailStatus": status})
    with pytest.raises(Conflict) as raised:
        store.claim(row["EmailId"], lease=LEASE)
    assert raised.value.row == {**row, "EmailStatus": status} == is_now(store, row["EmailId"])


def test_a_claim_waits_for_next_attempt_at(store: EmailStore, row: dict[str, Any]) -> None:
    store.put({**row, "NextAttemptAt": int(time.time()) + 30})
    with pytest.raises(Conflict):
        store.claim(row["EmailId"], lease=LEASE)


@pytest.mark.parametrize(
    "past",
    [
        0,
        Decimal("1769860800.5"),
        None,
        *(empty for empty in ("", *EMPTY_BUT_NO_NULL)),
    ],
    ids=repr,
)
def test_a_next_attempt_at_that_is_past_or_empty_is_no_hindrance(
    store: EmailStore, row: dict[str, Any], past: object
) -> None:
    store.put({**row, "NextAttemptAt": past})
    store.claim(row["EmailId"], lease=LEASE)


@pytest.mark.parametrize(
    "empty",
    [None, "", *EMPTY_BUT_NO_NULL],
    ids=repr,
)
def test_attempts_that_are_empty_are_none_yet(store: EmailStore, row: dict[str, Any], empty: object) -> None:
    store.put({**row, "Attempts": empty})
    assert store.claim(row["EmailId"], lease=LEASE).row["Attempts"] == 1


def test_a_record_has_the_receipt_and_no_failure_from_before(store: EmailStore, row: dict[str, Any]) -> None:
    store.put({**row, "FailureReason": "busy", "NextAttemptAt": 1, "Attempts": 1})
    claim = store.claim(row["EmailId"], lease=LEASE)
    store.record(claim, RECEIPT)
    sent = is_now(store, row["EmailId"])
    assert (sent["EmailStatus"], sent["Attempts"]) == ("Sent", 2)
    assert (sent["Provider"], sent["ProviderMessageId"]) == ("stub", "<id@example.com>")
    assert (sent["ProviderResponse"], sent["SentAt"]) == ("accepted", "2026-01-31T12:00:00.000+00:00")
    assert not {"FailureReason", "NextAttemptAt"} & sent.keys()


def test_what_is_given_back_waits_for_its_time(store: EmailStore, claim: Claim) -> None:
    at = int(time.time()) + 30
    store.give_back(claim, next_attempt_at=at + 0.9, reason="busy")
    pending = is_now(store, claim.email_id)
    assert (pending["EmailStatus"], pending["NextAttemptAt"], pending["Attempts"]) == ("Pending", at, 1)
    assert pending["FailureReason"] == "busy"
    with pytest.raises(Conflict):
        store.claim(claim.email_id, lease=LEASE)


def test_what_was_not_tried_is_not_counted(store: EmailStore, claim: Claim) -> None:
    store.give_back(claim, next_attempt_at=0, reason="too late", counted=False)
    assert is_now(store, claim.email_id)["Attempts"] == 0
    assert store.claim(claim.email_id, lease=LEASE).row["Attempts"] == 1


@pytest.mark.parametrize(
    ("outcome", "status"), [(FAIL, "Failed"), (MARK_UNKNOWN, "Unknown")], ids=["fail", "mark_unknown"]
)
def test_the_reason_of_an_end_stands_in_the_row(
    store: EmailStore, claim: Claim, outcome: Transition, status: str
) -> None:
    OUTCOMES[outcome](store, claim)
    ended = is_now(store, claim.email_id)
    assert ended["EmailStatus"] == status
    assert ended["FailureReason"] in ("no such mailbox", "no answer")


def test_a_reason_is_cut_to_what_a_screen_shows(store: EmailStore, claim: Claim) -> None:
    store.fail(claim, "x" * 500_000)
    assert is_now(store, claim.email_id)["FailureReason"] == "x" * MAX_REASON


@each_outcome
@pytest.mark.parametrize("status", [*EmailStatus, "Waiting"])
def test_the_holder_writes_from_where_the_transition_starts_and_from_nowhere_else(
    store: EmailStore, row: dict[str, Any], outcome: Transition, status: str
) -> None:
    claim = Claim(row["EmailId"], "claim-1", time.time() + LEASE, {})
    store.put({**row, "EmailStatus": str(status), "ClaimedBy": claim.id})
    if status in outcome.sources or (outcome == RECORD and status in ADD_RECEIPT):
        OUTCOMES[outcome](store, claim)
    elif status == outcome.target:
        OUTCOMES[outcome](store, claim)  # it repeats its own write, whose answer was lost
        assert "UpdatedAt" not in is_now(store, row["EmailId"])
    else:
        with pytest.raises(Conflict):
            OUTCOMES[outcome](store, claim)
    ends = outcome.target if status in outcome.sources else status
    assert is_now(store, row["EmailId"])["EmailStatus"] == ends


@pytest.mark.parametrize(
    ("kilobytes", "units"), [(2, (2, 3, 3, 3)), (20, (20, 21, 21, 21)), (200, (200, 201, 201, 201))]
)
def test_a_row_takes_the_write_units_that_producers_are_told(
    store: EmailStore, row: dict[str, Any], kilobytes: int, units: tuple[int, ...]
) -> None:
    def written() -> int:
        """Return the units of a write that left the row as it is now (Developer Guide, "item sizes"; strings only)."""
        now = is_now(store, row["EmailId"])
        return math.ceil(sum(len(name) + len(str(value).encode()) for name, value in now.items()) / 1024)

    row["BodyHtml"] = ""
    row["BodyHtml"] = "x" * (kilobytes * 1024 - sum(len(name) + len(str(value)) for name, value in row.items()))
    found = []
    store.put(row)
    found.append(written())
    claim = store.claim(row["EmailId"], lease=60)
    found.append(written())
    store.record(claim, Receipt("ses", "0100018f2b6d7c4a-3c1f5a0e-9a52-4f3b-8a6f-5f2c6f0d3c11-000000"))
    found.append(written())
    store.track(row["EmailId"], TRACK[EmailStatus.BOUNCED], "mailbox full")
    found.append(written())
    assert tuple(found) == units


@each_outcome
def test_nobody_but_the_holder_writes_the_outcome(store: EmailStore, claim: Claim, outcome: Transition) -> None:
    before = is_now(store, claim.email_id)
    with pytest.raises(Conflict) as raised:
        OUTCOMES[outcome](store, replace(claim, id="another's"))
    assert raised.value.row == before == is_now(store, claim.email_id)


def test_nobody_but_the_late_holder_moves_unknown_to_sent(store: EmailStore, row: dict[str, Any]) -> None:
    store.put(row)
    claim = store.claim(row["EmailId"], lease=-1)
    store.end(row["EmailId"], ABANDON, "abandoned")
    with pytest.raises(Conflict):
        store.record(replace(claim, id="another's"), RECEIPT)
    assert is_now(store, row["EmailId"])["EmailStatus"] == "Unknown"
    store.record(claim, RECEIPT)
    assert is_now(store, row["EmailId"])["EmailStatus"] == "Sent"


@each_outcome
def test_an_outcome_makes_no_row_of_one_that_was_deleted(store: EmailStore, outcome: Transition) -> None:
    with pytest.raises(Conflict) as raised:
        OUTCOMES[outcome](store, Claim("deleted", "claim-1", time.time() + LEASE, {}))
    assert raised.value.row is None
    assert store.get("deleted") is None


@pytest.mark.parametrize(
    ("changes", "abandoned"),
    [
        ({"ClaimExpiresAt": 1}, True),
        ({}, True),
        ({"ClaimExpiresAt": 32_503_680_000}, False),
        ({"EmailStatus": "Pending", "ClaimExpiresAt": 1}, False),
        ({"EmailStatus": "Sent", "ClaimExpiresAt": 1}, False),
        *(({"ClaimExpiresAt": empty}, True) for empty in (None, "", "soon", *EMPTY_BUT_NO_NULL)),
    ],
    ids=repr,
)
def test_a_claim_is_abandoned_when_its_lease_is_over(
    store: EmailStore, row: dict[str, Any], *, changes: dict[str, Any], abandoned: bool
) -> None:
    row |= {"EmailStatus": "Sending", "ClaimedBy": "claim-1", **changes}
    store.put(row)
    if abandoned:
        store.end(row["EmailId"], ABANDON, "abandoned")
        assert is_now(store, row["EmailId"])["EmailStatus"] == "Unknown"
    else:
        with pytest.raises(Conflict):
            store.end(row["EmailId"], ABANDON, "abandoned")
        assert is_now(store, row["EmailId"]) == row


@pytest.mark.parametrize(
    ("status", "discarded"),
    [
        ("Pending", True),
        ("", True),
        (None, True),
        ("Sending", False),
        ("Sent", False),
        ("Waiting", False),
        (5, False),
        *((empty, True) for empty in EMPTY_BUT_NO_NULL),
    ],
    ids=repr,
)
def test_a_row_is_discarded_before_anybody_claims_it(
    store: EmailStore, row: dict[str, Any], *, status: object, discarded: bool
) -> None:
    row["EmailStatus"] = status
    store.put(row)
    if discarded:
        store.end(row["EmailId"], DISCARD, "expired")
        failed = is_now(store, row["EmailId"])
        assert (failed["EmailStatus"], failed["FailureReason"]) == ("Failed", "expired")
    else:
        with pytest.raises(Conflict):
            store.end(row["EmailId"], DISCARD, "expired")
        assert is_now(store, row["EmailId"]) == row


def test_a_row_without_a_status_is_discarded_too(store: EmailStore, row: dict[str, Any]) -> None:
    del row["EmailStatus"]
    store.put(row)
    store.end(row["EmailId"], DISCARD, "EmailStatus: is missing")
    assert is_now(store, row["EmailId"])["EmailStatus"] == "Failed"


@pytest.mark.parametrize("status", [*EmailStatus, "Waiting"])
def test_an_operator_settles_what_is_unknown_or_failed_and_nothing_else(
    store: EmailStore, row: dict[str, Any], status: str
) -> None:
    held = {"ClaimedBy": "claim-1", "ClaimExpiresAt": 1, "Attempts": 8, "NextAttemptAt": 1, "FailureReason": "busy"}
    for resolve, target in ((store.resolve_sent, "Sent"), (store.resend, "Pending")):
        email_id = f"{row['EmailId']}-{target}"
        before = {**row, **held, "EmailId": email_id, "EmailStatus": str(status)}
        store.put(before)
        if status in ("Unknown", "Failed"):
            resolve(email_id)
            assert is_now(store, email_id)["EmailStatus"] == target
        else:
            with pytest.raises(Conflict):
                resolve(email_id)
            assert is_now(store, email_id) == before


def test_what_is_sent_again_starts_anew_and_its_late_holder_records_nothing(
    store: EmailStore, row: dict[str, Any]
) -> None:
    store.put({**row, "Attempts": 7})
    late = store.claim(row["EmailId"], lease=LEASE)
    store.mark_unknown(late, "no answer")
    store.resend(row["EmailId"])
    assert {name: value for name, value in is_now(store, row["EmailId"]).items() if name != "UpdatedAt"} == row
    with pytest.raises(Conflict):
        store.record(late, RECEIPT)
    assert store.claim(row["EmailId"], lease=LEASE).row["Attempts"] == 1


def test_of_several_that_touch_a_row_one_does(store: EmailStore, row: dict[str, Any]) -> None:
    store.put(row)
    store.touch(row["EmailId"], None)
    with pytest.raises(Conflict):
        store.touch(row["EmailId"], None)
    seen = is_now(store, row["EmailId"])["UpdatedAt"]
    with pytest.raises(Conflict):
        store.touch(row["EmailId"], "another time")
    store.touch(row["EmailId"], seen)
    store.claim(row["EmailId"], lease=LEASE)
    with pytest.raises(Conflict):
        store.touch(row["EmailId"], is_now(store, row["EmailId"])["UpdatedAt"])


def test_a_sweep_s_scan_brings_what_is_pending_or_sending_and_nothing_private(
    settings: Settings, row: dict[str, Any]
) -> None:
    apart = new_stage(settings.endpoint or "", "scan")
    store = EmailStore.from_settings(apart)
    for status in EmailStatus:
        store.put({**row, "EmailId": status.value, "EmailStatus": status.value, "SendAfter": "2026-01-31T12:00:00Z"})
    found, units = [], 0.0
    for rows, taken in store.scan(WANTED, 1e9):
        found += rows
        units += taken
    assert sorted(found, key=lambda brought: str(brought["EmailId"])) == [
        {"EmailId": status, "EmailStatus": status, "SendAfter": "2026-01-31T12:00:00Z"}
        for status in ("Pending", "Sending")
    ]
    assert units > 0


def test_a_claim_whose_answer_was_lost_is_ours(
    store: EmailStore, row: dict[str, Any], lose_the_answer: Callable[..., list[Any]]
) -> None:
    store.put(row)
    taken = lose_the_answer(store)
    claim = store.claim(row["EmailId"], lease=LEASE)
    assert len(taken) == 1
    assert claim.row == is_now(store, row["EmailId"])
    assert (claim.row["ClaimedBy"], claim.row["Attempts"]) == (claim.id, 1)


@pytest.mark.parametrize("status", [*EmailStatus, "Waiting"])
@pytest.mark.parametrize("expires_at", [1, 32_503_680_000], ids=["lease expired", "lease alive"])
def test_a_claim_is_taken_over_from_where_the_transition_starts_and_from_nowhere_else(
    store: EmailStore, row: dict[str, Any], status: str, expires_at: int
) -> None:
    token = new_token()
    ours = {"ClaimedBy": claim_id(token), "ClaimExpiresAt": expires_at, "Attempts": 3}
    before = {**row, **ours, "EmailStatus": str(status)}
    store.put(before)
    if status in ("Sending", "Unknown"):
        claim = store.take_over(row["EmailId"], token, lease=LEASE)
        now = is_now(store, row["EmailId"])
        assert claim.row == now
        assert (now["EmailStatus"], now["Attempts"]) == ("Sending", 3)
        assert (now["ClaimedBy"], now["ClaimExpiresAt"]) == (claim.id, claim.expires_at)
        assert claim.id != claim_id(token)
        assert claim.expires_at > time.time()
        store.record(claim, RECEIPT)
    else:
        with pytest.raises(Conflict):
            store.take_over(row["EmailId"], token, lease=LEASE)
        assert is_now(store, row["EmailId"]) == before


def test_nobody_takes_a_claim_over_without_its_token(store: EmailStore, claim: Claim) -> None:
    for guess in (claim.id, new_token(), ""):
        with pytest.raises(Conflict):
            store.take_over(claim.email_id, guess, lease=LEASE)
    assert is_now(store, claim.email_id) == claim.row


def test_whoever_held_the_claim_that_was_taken_over_writes_nothing(store: EmailStore, row: dict[str, Any]) -> None:
    token = new_token()
    store.put({**row, "EmailStatus": "Sending", "ClaimedBy": claim_id(token)})
    old = Claim(row["EmailId"], claim_id(token), time.time() + LEASE, {})
    new = store.take_over(row["EmailId"], token, lease=LEASE)
    for outcome in OUTCOMES.values():
        with pytest.raises(Conflict):
            outcome(store, old)
    assert is_now(store, row["EmailId"]) == new.row


def test_a_take_over_whose_answer_was_lost_is_ours(
    store: EmailStore, row: dict[str, Any], lose_the_answer: Callable[..., list[Any]]
) -> None:
    token = new_token()
    store.put({**row, "EmailStatus": "Sending", "ClaimedBy": claim_id(token)})
    taken = lose_the_answer(store)
    claim = store.take_over(row["EmailId"], token, lease=LEASE)
    assert len(taken) == 1
    assert claim.row == is_now(store, row["EmailId"])


def test_a_claim_without_any_answer_has_the_token_of_what_it_wrote(
    store: EmailStore, row: dict[str, Any], lose_the_answer: Callable[..., list[Any]]
) -> None:
    store.put(row)
    lose_the_answer(store, times=3)
    with pytest.raises(ClaimUnanswered) as raised:
        store.claim(row["EmailId"], lease=LEASE)
    (token,) = raised.value.tokens
    lost = is_now(store, row["EmailId"])
    assert (lost["ClaimedBy"], lost["Attempts"]) == (claim_id(token), 1)


@each_outcome
def test_an_outcome_whose_answer_was_lost_is_written_once(
    store: EmailStore, claim: Claim, outcome: Transition, lose_the_answer: Callable[..., list[Any]]
) -> None:
    taken = lose_the_answer(store)
    OUTCOMES[outcome](store, claim)
    assert len(taken) == 1
    written = is_now(store, claim.email_id)
    assert (written["EmailStatus"], written["ClaimedBy"], written["Attempts"]) == (outcome.target, claim.id, 1)


def test_what_another_wrote_is_not_taken_for_the_own_lost_success(store: EmailStore, row: dict[str, Any]) -> None:
    for ours, status in (("claim-1", "Sending"), ("other", "Sent")):
        email_id = f"{row['EmailId']}-{status}"
        store.put({**row, "EmailId": email_id, "EmailStatus": status, "ClaimedBy": ours})
        with pytest.raises(Conflict):
            store.claim(email_id, lease=LEASE)
    with pytest.raises(Conflict):
        store.record(Claim(f"{row['EmailId']}-Sent", "claim-1", time.time(), {}), RECEIPT)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ProvisionedThroughputExceededException", StoreUnavailable),
        ("ThrottlingException", StoreUnavailable),
        ("RequestLimitExceeded", StoreUnavailable),
        ("InternalServerError", StoreUnavailable),
        ("ResourceNotFoundException", StoreUnavailable),
        ("AccessDeniedException", StoreUnavailable),
        ("ExpiredTokenException", StoreUnavailable),
        ("ValidationException", StoreRefused),
        ("ItemCollectionSizeLimitExceededException", StoreRefused),
    ],
)
def test_an_error_of_dynamodb_is_for_now_or_for_ever(settings: Settings, code: str, error: type[Exception]) -> None:
    dynamodb = client("dynamodb", settings)
    store = EmailStore(dynamodb, settings.table)
    steps: list[tuple[str, Callable[[], object]]] = [
        ("get_item", lambda: store.get("1")),
        ("put_item", lambda: store.put({"EmailId": "1", "Subject": "secret"})),
        ("update_item", lambda: store.claim("1", lease=LEASE)),
        ("update_item", lambda: store.end("1", DISCARD, "expired")),
        *(("update_item", lambda write=write: write(store, Claim("1", "2", 0, {}))) for write in OUTCOMES.values()),
    ]
    with Stubber(dynamodb) as stubber:
        for operation, step in steps:
            stubber.add_client_error(operation, code, "a message with a secret")
            with pytest.raises(error, match=code) as raised:
                step()
            assert "secret" not in str(raised.value)


def test_a_table_that_nothing_answers_for_is_unavailable(no_backoff_of_botocore: None) -> None:
    away = Settings(endpoint_url=HttpUrl("http://127.0.0.1:9"), stage="away")  # the discard port, where nothing listens
    store = EmailStore.from_settings(away)
    with pytest.raises(StoreUnavailable, match="EndpointConnectionError"):
        store.get("1")
    with pytest.raises(StoreUnavailable):
        store.claim("1", lease=LEASE)


def test_a_write_past_400_kilobytes_is_refused_for_ever(store: EmailStore, row: dict[str, Any]) -> None:
    with pytest.raises(StoreRefused):
        store.put({**row, "BodyText": "x" * 410_000})
    store.put({**row, "BodyText": "x" * (409_600 - 200)})
    with pytest.raises(StoreRefused):
        store.claim(row["EmailId"], lease=LEASE)
    assert is_now(store, row["EmailId"])["EmailStatus"] == "Pending"
