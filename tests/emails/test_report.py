"""What is shown of an email. tests/commands/test_printed.py has values of any type."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emails.report import masked, report


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ada.lovelace@example.com", "a…@example.com"),
        ("bob@example.com", "…@example.com"),
        ("550 <bobby@example.com>: no such mailbox", "550 <b…@example.com>: no such mailbox"),
        ("two: one@a.example, another@b.example", "two: …@a.example, a…@b.example"),
        ('"ada lovelace"@example.com', '"…@example.com'),
        ("bounces+ada=example.org@example.com", "b…@example.com"),
        ("o'brien@example.com", "o…@example.com"),
        ("zoë@bücher.example", "…@bücher.example"),
        ("the provider is down", "the provider is down"),
    ],
)
def test_an_address_is_masked_wherever_it_is(text: str, shown: str) -> None:
    assert masked({"Diagnostic": text, "Recipient": text}) == {"Diagnostic": shown, "Recipient": shown}


def test_ids_and_values_that_are_no_text_are_left() -> None:
    row: dict[str, object] = {"EmailId": "ada@example.com", "ProviderMessageId": "<1@mail.example>", "Attempts": 3}
    assert masked(row) == row


@given(st.text(), st.from_regex(r"[a-z][a-z0-9.=+'-]{3,20}", fullmatch=True), st.text())
def test_no_text_around_an_address_reveals_it(before: str, local: str, after: str) -> None:
    assert f"{local}@example.com" not in str(masked({"Diagnostic": f"{before} {local}@example.com {after}"}))


def test_it_says_how_often_each_provider_was_tried() -> None:
    tried = {"smtp": Decimal(2), "ses": Decimal(1)}
    assert report("order-1", {"ProvidersTried": tried})["ProvidersTried"] == "ses 1, smtp 2"
