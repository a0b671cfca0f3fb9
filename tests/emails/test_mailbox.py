"""What is a mailbox, what is none, and that none of it takes long to tell."""

from __future__ import annotations

import time
from email.headerregistry import Address

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emails.mailbox import parse_mailbox


@pytest.mark.parametrize(
    ("text", "name", "local_part", "domain"),
    [
        ("ada@example.com", "", "ada", "example.com"),
        ("  ada@example.com ", "", "ada", "example.com"),
        ("<ada@example.com>", "", "ada", "example.com"),
        ("Ada Lovelace <ada@example.com>", "Ada Lovelace", "ada", "example.com"),
        ("Ada Lovelace<ada@example.com>", "Ada Lovelace", "ada", "example.com"),
        ('"Ada Lovelace"   < ada@example.com >', "Ada Lovelace", "ada", "example.com"),
        ('"Lovelace, Ada" <ada@example.com>', "Lovelace, Ada", "ada", "example.com"),
        (r'"Ada \"Countess\" L\\" <ada@example.com>', 'Ada "Countess" L\\', "ada", "example.com"),
        (r'"\A\d\a" <ada@example.com>', "Ada", "ada", "example.com"),
        ('"<ada@example.com>" <eve@example.com>', "<ada@example.com>", "eve", "example.com"),
        ("A. Lovelace <ada@example.com>", "A. Lovelace", "ada", "example.com"),
        ("O'Brien <o'brien+news@example.com>", "O'Brien", "o'brien+news", "example.com"),
        ("!#$%&'*+/=?^_`{|}~-@example.com", "", "!#$%&'*+/=?^_`{|}~-", "example.com"),
        ('"ada lovelace"@example.com', "", "ada lovelace", "example.com"),
        (r'"a\d\@"@example.com', "", "ad@", "example.com"),
        ("Ädä 😀 <ädä@bücher.example>", "Ädä 😀", "ädä", "xn--bcher-kva.example"),
        ("ada@straße.example", "", "ada", "xn--strae-oqa.example"),
        ("Ada@EXAMPLE.Com", "", "Ada", "example.com"),
        ("ada@localhost", "", "ada", "localhost"),
        (f"{'a' * 64}@example.com", "", "a" * 64, "example.com"),
    ],
)
def test_a_mailbox_is_an_address_with_or_without_a_name(text: str, name: str, local_part: str, domain: str) -> None:
    assert parse_mailbox(text) == Address(name, local_part, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@",
        "@example.com",
        "ada@",
        "ada@@example.com",
        "ada@example..com",
        "ada@.example.com",
        "ada@example.com.",
        "ada@-example.com",
        "ada@exa_mple.com",
        "ada@[192.0.2.1]",
        "ada@xn--zzzzzz.example",
        f"ada@{'b' * 64}.example",
        ".ada@example.com",
        "ada.@example.com",
        "a..da@example.com",
        "ada lovelace@example.com",
        "ada@example.com, eve@example.com",
        "ada@example.com eve@example.com",
        "Ada <ada@example.com> Lovelace",
        "Ada <ada@example.com",
        "Ada ada@example.com>",
        "Ada <<ada@example.com>>",
        "Lovelace, Ada <ada@example.com>",
        "Ada (Countess) <ada@example.com>",
        '"Ada" Lovelace <ada@example.com>',
        '"Ada <ada@example.com>',
        '""@example.com',
        '"a..da"@example.com',
        '".ada"@example.com',
        "ada@example.com\r\nBcc: eve@example.com",
        "Ada\n <ada@example.com>",
        "Ada\x00 <ada@example.com>",
        "Ada\x85 <ada@example.com>",
        "Ada\u2028 <ada@example.com>",
        "Ada\ud800 <ada@example.com>",
        f"{'a' * 65}@example.com",
        f"{'ä' * 33}@example.com",
        f"ada@{'.'.join(['b' * 62] * 4)}",
    ],
)
def test_what_is_no_mailbox_is_told_why_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has) ") as raised:
        parse_mailbox(text)
    without_our_own_example = str(raised.value).replace('ada@example.com or "Ada Lovelace" <ada@example.com>', "")
    assert text == "" or text not in without_our_own_example
    assert not {"eve", "Countess", "xn--", "192"} & set(without_our_own_example.replace(":", " ").split())


@pytest.mark.parametrize(
    "text",
    [
        "a" + " " * 400_000 + "b@example.com",
        "ada@example.com" + " " * 400_000 + "<",
        '"' + "\\a" * 200_000 + "@example.com",
        "a." * 200_000 + "@example.com",
        "ada@" + "b." * 200_000 + "!",
        "ada@" + "b-" * 200_000,
        "<" * 400_000 + "@",
        "ä" * 400_000 + "@example.com",
    ],
    ids=["spaces", "spaces before <", "quoted pairs", "atoms", "labels", "hyphens", "brackets", "non-ASCII"],
)
def test_no_text_that_a_row_can_hold_takes_long(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match=r"^(is|has) "):
        parse_mailbox(text)
    assert time.process_time() - started < 2, "an expression that backtracks holds every thread of the worker"


@hypothesis.settings(deadline=None)
@given(st.text(max_size=40) | st.from_regex(r'[Aa"\\\\ü .,@<>\x00-]{1,30}@[ab.ü<>-]{1,9}>?', fullmatch=True))
def test_any_text_is_a_mailbox_or_a_value_error(text: str) -> None:
    try:
        mailbox = parse_mailbox(text)
    except ValueError:
        return
    assert mailbox.domain.isascii()
    assert parse_mailbox(str(mailbox)) == mailbox, "what is written is what was read"
