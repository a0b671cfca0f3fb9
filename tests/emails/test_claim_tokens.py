"""What a message carries about claims that got no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emails.claim_tokens import MOST_TOKENS, claim_id, find_token, from_text, new_token, to_text, with_newest
from emails.status import TAKE_OVER, EmailStatus

tokens = st.lists(st.uuids().map(lambda uuid: uuid.hex), max_size=20).map(tuple)
anything = st.none() | st.integers() | st.lists(st.text()) | st.text() | st.text("0123456789abcdef ")


@given(carried=tokens)
def test_a_message_carries_the_newest_tokens(carried: tuple[str, ...]) -> None:
    assert from_text(to_text(carried)) == carried[-MOST_TOKENS:]


def test_a_claim_s_id_has_the_form_that_workers_of_other_versions_write() -> None:
    assert claim_id("0123456789abcdef0123456789abcdef") == "3eb1bd439947eb762998e566ccc2e099"


@given(carried=anything)
def test_whatever_else_a_message_carries_is_no_token(carried: object) -> None:
    found = from_text(carried)
    assert len(found) <= MOST_TOKENS
    assert from_text(to_text(found)) == found


def test_the_tokens_that_the_row_s_claim_may_have_now_are_kept_longest() -> None:
    many = tuple(new_token() for _ in range(MOST_TOKENS))
    in_row, newest = many[0], new_token()
    assert with_newest(many, in_row, newest) == (*many[2:], in_row, newest)
    assert with_newest((), None, newest) == (newest,)


@pytest.mark.parametrize("status", [*EmailStatus, None, "Waiting"])
def test_a_token_is_that_of_the_row_s_claim_if_the_claim_can_be_taken_over(status: str | None) -> None:
    token = new_token()
    row = {"EmailStatus": status, "ClaimedBy": claim_id(token)}
    assert find_token(row, (new_token(), token)) == (token if status in TAKE_OVER.sources else None)
    assert find_token(row, (new_token(), claim_id(token))) is None
    assert find_token({"EmailStatus": status}, (token,)) is None
