"""What is safe to print on a terminal or in a log."""

from __future__ import annotations

import pytest
from boto3.dynamodb.types import Binary
from hypothesis import given
from hypothesis import strategies as st

from emails.printable import printable


@given(st.text() | st.binary() | st.none() | st.integers() | st.lists(st.text()) | st.sets(st.text()))
def test_whatever_it_is_becomes_one_printable_line_that_utf_8_can_carry(value: object) -> None:
    text = printable(value)
    assert text.isprintable()
    text.encode()


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="@")))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Grüße, 世界 \U0001f600", "Grüße, 世界 \U0001f600"),
        ("ada@example.com", "ada@example.com"),
        ("two\r\nlines\tand\u2028more\u00a0or\u0085less", "two  lines and more or less"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2Jgone", r"\x9b2Jgone"),
        ("\x7f\x08", r"\x7f\x08"),
        ("gpj.\u202eexe\u2066", r"gpj.\u202eexe\u2066"),
        ("\u200b\ufeff\U000e0041", r"\u200b\ufeff\U000e0041"),
        ("\ud800", r"\ud800"),
        (Binary(b"\x1b"), r"Binary(b'\x1b')"),
        (7, "7"),
        ("at http://user:pass@host:4566/a?b", "at http://…@host:4566/a?b"),
        ("at https://user:p@ss@host", "at https://…@host"),
        ("see http://host/ada@example.com", "see http://host/ada@example.com"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(value: object, shown: str) -> None:
    assert printable(value) == shown
