"""Threads that read, claim and record at the same time share requests, and every row ends as if they did not."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from emails.claim_tokens import claim_id
from emails.providers.contract import Receipt
from emails.store import Claim, ClaimUnanswered, Conflict, EmailStore, StoreRefused, StoreUnavailable
from tests.support.groups import always_grouped, together
from tests.support.stage import new_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from settings import Settings

    Answer = dict[str, Any]

LEASE = 60
RECEIPT = Receipt("stub", "<id@example.com>", "accepted", accepted_at=1_769_860_800)
ACTIONS = ("GetItem", "BatchGetItem", "UpdateItem", "BatchExecuteStatement")
METHODS = {"BatchGetItem": "batch_get_item", "BatchExecuteStatement": "batch_execute_statement"}
# Those of BatchStatementError that can concern a single row (API reference).
FOR_ONE_ROW = ("ConditionalCheckFailed", "ThrottlingError", "TransactionConflict", "ProvisionedThroughputExceeded")
FOR_ONE_ROW += ("RequestLimitExceeded", "InternalServerError", "ValidationError", "ItemCollectionSizeLimitExceeded")


@pytest.fixture(scope="module")
def settings(emulator: str) -> Settings:
    return new_stage(emulator, "grouped")


@pytest.fixture
def store(settings: Settings) -> Iterator[EmailStore]:
    return EmailStore.from_settings(settings)


@pytest.fixture
def rows(store: EmailStore, row: Answer) -> list[Answer]:
    """Three rows that can be sent."""
    rows = [row | {"EmailId": f"{row['EmailId']}-{number}"} for number in range(3)]
    for each in rows:
        store.put(each)
    return rows


class Requests:
    """Counts the requests to DynamoDB, and changes some of them."""

    def __init__(self, store: EmailStore, patch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        self._client = store._client
        self._patch = patch
        for action in ACTIONS:
            count = partial(self.counts.update, [action])
            self._client.meta.events.register(f"before-send.dynamodb.{action}", lambda count=count, **_: count())

    def change(
        self, action: str, before: Callable[[Answer], Any] | None = None, after: Callable[[Answer], Any] | None = None
    ) -> None:
        """Change the next grouped request or its answer.

        `before` gets the request, and may change it or raise an exception. `after` gets the answer.
        """
        method = getattr(self._client, METHODS[action])

        def changed(**request: Any) -> Answer:
            self._patch.setattr(self._client, METHODS[action], method)
            if before:
                before(request)
            answer: Answer = method(**request)
            if after:
                after(answer)
            return answer

        self._patch.setattr(self._client, METHODS[action], changed)


@pytest.fixture
def requests(store: EmailStore, monkeypatch: pytest.MonkeyPatch) -> Requests:
    return Requests(store, monkeypatch)


def claim_together(store: EmailStore, rows: list[Answer]) -> list[Claim | Exception]:
    return together(store, [lambda each=each: store.claim(each["EmailId"], lease=LEASE) for each in rows])


def record_together(store: EmailStore, claims: list[Any]) -> list[Exception | None]:
    return together(store, [lambda claim=claim: store.record(claim, RECEIPT) for claim in claims])


def get_together(store: EmailStore, email_ids: list[str]) -> list[Answer | Exception | None]:
    return together(store, [lambda email_id=email_id: store.get(email_id) for email_id in email_ids])


def writes_are_grouped(store: EmailStore) -> bool:
    assert store._grouped
    return not store._grouped._writes.is_off


def claims_of(answers: list[Claim | Exception]) -> list[Claim]:
    claims = [answer for answer in answers if isinstance(answer, Claim)]
    assert len(claims) == len(answers), answers
    return claims


def assert_claimed_once(store: EmailStore, claims: list[Claim]) -> None:
    for claim in claims:
        now = store.get(claim.email_id)
        assert now == claim.row
        assert (now["EmailStatus"], now["ClaimedBy"], now["Attempts"]) == ("Sending", claim.id, 1)


def assert_sent_once(store: EmailStore, claims: list[Claim]) -> None:
    for claim in claims:
        now = store.get(claim.email_id) or {}
        assert (now["EmailStatus"], now["ClaimedBy"], now["Attempts"]) == ("Sent", claim.id, 1)
        assert (now["ProviderMessageId"], now["SentAt"]) == (RECEIPT.message_id, "2026-01-31T12:00:00.000+00:00")


def test_reads_claims_and_records_that_meet_share_a_request(
    store: EmailStore, rows: list[Answer], requests: Requests
) -> None:
    assert get_together(store, [each["EmailId"] for each in rows]) == rows
    claims = claims_of(claim_together(store, rows))
    record_together(store, claims)
    assert requests.counts == {"BatchGetItem": 1, "BatchExecuteStatement": 2}
    assert_sent_once(store, claims)


def test_a_single_caller_makes_the_requests_that_it_made_before_there_were_groups(
    store: EmailStore, rows: list[Answer], requests: Requests
) -> None:
    for each in rows:
        store.get(each["EmailId"])
        store.record(store.claim(each["EmailId"], lease=LEASE), RECEIPT)
    assert requests.counts == {"GetItem": 3, "UpdateItem": 6}


def test_groups_that_are_turned_off_are_not_used(settings: Settings, rows: list[Answer]) -> None:
    store = EmailStore.from_settings(settings.model_copy(update={"grouped_requests": False}))
    assert store._grouped is None
    store.record(store.claim(rows[0]["EmailId"], lease=LEASE), RECEIPT)


@pytest.mark.parametrize(
    "extra",
    [{}, {"Customer": {"nested": [1, None]}}, {"Attempts": 3}, {"NextAttemptAt": 5}, {"FailureReason": "busy"}],
    ids=str,
)
def test_a_row_ends_the_same_with_groups_and_without(
    settings: Settings, row: Answer, monkeypatch: pytest.MonkeyPatch, extra: Answer
) -> None:
    monkeypatch.setattr("emails.store.rows.time.time", lambda: 1_769_860_000.5)
    monkeypatch.setattr("emails.store.rows.new_token", lambda: "a" * 32)
    ends = []
    for grouped in (True, False):
        email_id = f"{row['EmailId']}-{grouped}"
        store = EmailStore.from_settings(settings.model_copy(update={"grouped_requests": grouped}))
        if grouped:
            always_grouped(store)
        store.put(row | extra | {"EmailId": email_id})
        claim = store.claim(email_id, lease=LEASE)
        claimed = store.get(email_id)
        store.record(claim, RECEIPT)
        ends.append([{**end, "EmailId": ""} for end in (claim.row, claimed or {}, store.get(email_id) or {})])
    assert ends[0] == ends[1]


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "not grouped"])
def test_of_two_contenders_for_each_row_on_sixteen_threads_exactly_one_claims_it(
    settings: Settings, row: Answer, requests: Requests, store: EmailStore, grouped: bool
) -> None:
    if not grouped:
        store._grouped = None
    ids = [f"{row['EmailId']}-{number}" for number in range(200)]
    for email_id in ids:
        store.put(row | {"EmailId": email_id})
    contenders = ids * 2
    random.Random(7).shuffle(contenders)
    barrier = threading.Barrier(16)
    found: list[Answer] = []  # by those who lost

    def claim(numbers: range) -> list[Claim]:
        won = []
        barrier.wait(60)
        for number in numbers:
            try:
                won.append(store.claim(contenders[number], lease=LEASE))
            except Conflict as conflict:
                found.append(conflict.row or {})
        return won

    with ThreadPoolExecutor(16) as threads:
        won = [claim for each in threads.map(claim, [range(n, 400, 16) for n in range(16)]) for claim in each]
    assert sorted(claim.email_id for claim in won) == sorted(ids)
    assert [each["EmailStatus"] for each in found] == ["Sending"] * len(ids)
    assert_claimed_once(store, won)
    assert bool(requests.counts["BatchExecuteStatement"]) == grouped


@pytest.mark.parametrize("code", FOR_ONE_ROW)
@pytest.mark.parametrize("has_effect", [False, True], ids=["not carried out", "carried out"])
def test_an_error_for_one_row_is_between_that_row_and_its_own_request(
    store: EmailStore,
    rows: list[Answer],
    requests: Requests,
    code: str,
    has_effect: bool,
) -> None:
    error = {"Error": {"Code": code, "Message": "of this row"}}

    def before(request: Answer) -> None:
        if not has_effect:
            del request["Statements"][1]

    def after(answer: Answer) -> None:
        answer["Responses"][1 : 2 if has_effect else 1] = [error]

    requests.change("BatchExecuteStatement", before, after)
    claims = claims_of(claim_together(store, rows))
    assert_claimed_once(store, claims)
    requests.change("BatchExecuteStatement", before, after)
    assert record_together(store, claims) == [None] * 3
    assert_sent_once(store, claims)
    assert (requests.counts["BatchExecuteStatement"], requests.counts["UpdateItem"]) == (2, 2)
    assert writes_are_grouped(store)


def test_answers_in_another_order_are_given_to_whom_they_belong(
    store: EmailStore, rows: list[Answer], requests: Requests
) -> None:
    requests.change("BatchExecuteStatement", after=lambda answer: answer["Responses"].reverse())
    claims = claims_of(claim_together(store, rows))
    assert [claim.email_id for claim in claims] == [each["EmailId"] for each in rows]
    assert_claimed_once(store, claims)

    def refuse_the_first_and_answer_in_another_order(answer: Answer) -> None:
        answer["Responses"].append({"Error": {"Code": "ThrottlingError"}})

    requests.change(
        "BatchExecuteStatement",
        lambda request: request["Statements"].pop(0),
        refuse_the_first_and_answer_in_another_order,
    )
    assert record_together(store, claims) == [None] * 3
    assert_sent_once(store, claims)


@pytest.mark.parametrize("carried_out", [False, True])
def test_calls_whose_answers_are_missing_go_alone(
    store: EmailStore, rows: list[Answer], requests: Requests, carried_out: bool
) -> None:
    before = None if carried_out else lambda request: request["Statements"].pop()
    after = (lambda answer: answer["Responses"].pop()) if carried_out else None
    requests.change("BatchExecuteStatement", before, after)
    claims = claims_of(claim_together(store, rows))
    assert_claimed_once(store, claims)
    requests.change("BatchExecuteStatement", before, after)
    assert record_together(store, claims) == [None] * 3
    assert_sent_once(store, claims)


def test_a_group_whose_answer_is_lost_once_ends_as_it_would_have(
    store: EmailStore, rows: list[Answer], lose_the_answer: Callable[..., list[Any]]
) -> None:
    lost = lose_the_answer(store)
    claims = claims_of(claim_together(store, rows))
    assert_claimed_once(store, claims)
    lose_the_answer(store)
    assert record_together(store, claims) == [None] * 3
    assert_sent_once(store, claims)
    assert len(lost) == 1


def test_claims_of_a_group_without_any_answer_can_be_taken_over(
    store: EmailStore, rows: list[Answer], requests: Requests
) -> None:
    def lose(_: Answer) -> None:
        raise ReadTimeoutError(endpoint_url="here")

    requests.change("BatchExecuteStatement", after=lose)
    for answer, each in zip(claim_together(store, rows), rows, strict=True):
        assert isinstance(answer, ClaimUnanswered)
        (token,) = answer.tokens
        assert (store.get(each["EmailId"]) or {})["ClaimedBy"] == claim_id(token)
        claim = store.take_over(each["EmailId"], token, lease=LEASE)
        assert claim.row["Attempts"] == 1


@pytest.mark.parametrize("has_effect", [False, True], ids=["not carried out", "carried out"])
def test_records_of_a_group_without_any_answer_are_repeated_by_their_senders(
    store: EmailStore, rows: list[Answer], requests: Requests, has_effect: bool
) -> None:
    claims = claims_of(claim_together(store, rows))

    def lose(_: Answer) -> None:
        raise ReadTimeoutError(endpoint_url="here")

    requests.change("BatchExecuteStatement", None if has_effect else lose, lose)
    assert {type(error) for error in record_together(store, claims)} == {StoreUnavailable}
    assert record_together(store, claims) == [None] * 3
    assert_sent_once(store, claims)


@pytest.mark.parametrize(
    "code", ["ProvisionedThroughputExceededException", "ThrottlingException", "InternalServerError"]
)
def test_throttling_of_a_whole_group_is_shared(
    store: EmailStore, rows: list[Answer], requests: Requests, code: str
) -> None:
    def refuse(_: Answer) -> None:
        raise ClientError({"Error": {"Code": code, "Message": ""}}, "operation")

    requests.change("BatchGetItem", refuse, None)
    assert {type(answer) for answer in get_together(store, [each["EmailId"] for each in rows])} == {StoreUnavailable}
    requests.change("BatchExecuteStatement", refuse, None)
    assert {type(answer) for answer in claim_together(store, rows)} == {ClaimUnanswered}
    assert requests.counts == {}
    claims = claims_of(claim_together(store, rows))
    assert_claimed_once(store, claims)


@pytest.mark.parametrize("code", ["AccessDeniedException", "UnknownOperationException"])
def test_a_denial_of_grouped_requests_is_remembered_and_logged(
    store: EmailStore,
    rows: list[Answer],
    requests: Requests,
    caplog: pytest.LogCaptureFixture,
    code: str,
) -> None:
    def deny(_: Answer) -> None:
        raise ClientError({"Error": {"Code": code, "Message": "User: …"}}, "operation")

    requests.change("BatchGetItem", deny, None)
    requests.change("BatchExecuteStatement", deny, None)
    ids = [each["EmailId"] for each in rows]
    assert get_together(store, ids) == rows
    claims = claims_of(claim_together(store, rows))
    assert record_together(store, claims) == [None] * 3
    assert [store.get(email_id) for email_id in ids]
    assert_sent_once(store, claims)
    assert not requests.counts["BatchGetItem"] + requests.counts["BatchExecuteStatement"]
    said = [line for line in caplog.messages if "is no longer used" in line]
    assert [line.split()[0] for line in said] == ["BatchGetItem", "BatchExecuteStatement"]
    assert all(code in line for line in said)


# What DynamoDB could answer if it did not support a statement, by what is logged then.
UNSUPPORTED: dict[str, Callable[[Answer], Any]] = {
    "does not contain the row": lambda answer: [response.pop("Item") for response in answer["Responses"]],
    "AccessDenied": lambda answer: answer["Responses"].append({"Error": {"Code": "AccessDenied"}}),
    "ValidationError": lambda answer: answer.update(Responses=[{"Error": {"Code": "ValidationError"}}] * 3),
}


@pytest.mark.parametrize("why", UNSUPPORTED)
def test_statements_that_dynamodb_does_not_support_are_not_used_again(
    store: EmailStore,
    rows: list[Answer],
    requests: Requests,
    caplog: pytest.LogCaptureFixture,
    why: str,
) -> None:
    requests.change("BatchExecuteStatement", after=UNSUPPORTED[why])
    claims = claims_of(claim_together(store, rows))
    assert_claimed_once(store, claims)
    assert record_together(store, claims) == [None] * 3
    assert requests.counts["BatchExecuteStatement"] == 1
    (said,) = [line for line in caplog.messages if "is no longer used" in line]
    assert why in said


def test_keys_that_dynamodb_left_unprocessed_are_asked_for_again(
    store: EmailStore, rows: list[Answer], settings: Settings, requests: Requests
) -> None:
    def leave_out(answer: Answer) -> None:
        left = answer["Responses"][settings.table].pop()
        answer["UnprocessedKeys"] = {settings.table: {"Keys": [{"EmailId": left["EmailId"]}]}}

    requests.change("BatchGetItem", None, leave_out)
    assert get_together(store, [each["EmailId"] for each in rows]) == rows


def test_a_row_that_is_not_there_is_missing_for_its_caller_only(store: EmailStore, rows: list[Answer]) -> None:
    assert get_together(store, [rows[0]["EmailId"], "none such", rows[1]["EmailId"]]) == [rows[0], None, rows[1]]
    claimed, missing, also_claimed = claim_together(store, [rows[0], {"EmailId": "none such"}, rows[1]])
    assert isinstance(missing, Conflict)
    assert missing.row is None
    assert store.get("none such") is None, "an update would have made it"
    assert_claimed_once(store, claims_of([claimed, also_claimed]))


@pytest.mark.parametrize("poison", ["", "x" * 3000], ids=["empty", "longer than a key may be"])
def test_an_id_that_dynamodb_refuses_harms_no_other_caller(store: EmailStore, rows: list[Answer], poison: str) -> None:
    first, refused, second = get_together(store, [rows[0]["EmailId"], poison, rows[1]["EmailId"]])
    assert (first, second) == (rows[0], rows[1])
    assert isinstance(refused, StoreRefused)
    claimed, refused, also_claimed = claim_together(store, [rows[0], {"EmailId": poison}, rows[1]])
    assert isinstance(refused, StoreRefused)
    assert_claimed_once(store, claims_of([claimed, also_claimed]))
    assert writes_are_grouped(store)


def test_a_row_that_is_too_large_to_be_claimed_harms_no_other(store: EmailStore, rows: list[Answer]) -> None:
    large = rows[0] | {"EmailId": f"{rows[0]['EmailId']}-large", "BodyText": "x" * (409_600 - 200)}
    store.put(large)
    claimed, refused, also_claimed = claim_together(store, [rows[0], large, rows[1]])
    assert isinstance(refused, StoreRefused)
    assert_claimed_once(store, claims_of([claimed, also_claimed]))
    assert writes_are_grouped(store)


def test_a_row_that_is_read_twice_at_once_is_read_for_both(store: EmailStore, rows: list[Answer]) -> None:
    ids = [rows[number]["EmailId"] for number in (0, 0, 1)]
    assert get_together(store, ids) == [rows[0], rows[0], rows[1]]


def test_large_rows_go_in_small_groups_and_small_ones_in_large_groups_again(
    store: EmailStore, rows: list[Answer], row: Answer, requests: Requests
) -> None:
    large = [row | {"EmailId": f"{row['EmailId']}-large-{number}", "BodyText": "x" * 300_000} for number in range(6)]
    for each in large:
        store.put(each)
    ids = [each["EmailId"] for each in large]
    assert get_together(store, ids) == large
    assert requests.counts.pop("BatchGetItem") == 1, "nothing was known about the rows' size"
    assert get_together(store, ids) == large
    assert requests.counts.pop("BatchGetItem") == 2, "a million bytes hold three of them"
    for _ in range(60):
        get_together(store, [each["EmailId"] for each in rows])
    assert store._grouped
    assert store._grouped._most(100) > 50
