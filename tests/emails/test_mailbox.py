"""Which texts are mailboxes and which are not, and that no text takes long to check."""

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


# Format characters: soft hyphen, zero-width space and joiners, direction marks, byte-order mark, a tag. Then other
# invisible characters: a no-break space, fillers, variation selectors.
INVISIBLE = [
    *("\u00ad", "\u200b", "\u200c", "\u200d", "\u200e", "\u202e", "\u2060", "\u2066", "\ufeff", "\U000e0041"),
    *("\u00a0", "\u034f", "\u115f", "\u3164", "\ufe0f", "\U000e0100"),
]


@pytest.mark.parametrize("character", INVISIBLE, ids=ascii)
@pytest.mark.parametrize(
    "text",
    [
        "a{}@example.com",
        "ad{}a@example.com",
        '"ad{}a"@example.com',
        "ada{}@example.com",
        "ada@exam{}ple.com",
        "ada@example.com{}.example",
        "Ada <a{}da@example.com>",
        "Ada <ada@exam{}ple.com>",
    ],
)
def test_an_address_has_no_invisible_character(text: str, character: str) -> None:
    with pytest.raises(ValueError, match=rf"^has an invisible character, U\+{ord(character):04X}, in its address$"):
        parse_mailbox(text.format(character))


@pytest.mark.parametrize("text", ["{}ada@example.com", "ada@example.com{}", "Ada <ada@example.com>{}"])
def test_an_address_has_no_invisible_character_around_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^has an invisible character, U\+FEFF, in its address$"):
        parse_mailbox(text.format("\ufeff"))


@hypothesis.settings(deadline=None)
@given(st.characters(categories=["Cf"]), st.sampled_from(["{}a@b.example", "a@b{}c.example", "<a{}@b.example>"]))
def test_no_character_of_the_category_cf_is_in_an_address(character: str, text: str) -> None:
    with pytest.raises(ValueError, match="an invisible character"):
        parse_mailbox(text.format(character))


@pytest.mark.parametrize("domain", ["xn--mgba3gch31f060k.com", "XN--MGBA3GCH31F060K.com"])
def test_a_domain_in_punycode_has_no_invisible_character_either(domain: str) -> None:
    """IDNA 2008 allows a zero-width joiner between certain letters."""
    with pytest.raises(ValueError, match=r"^has an invisible character, U\+200C, in its address$"):
        parse_mailbox(f"ada@{domain}")


@pytest.mark.parametrize("name", ["\u0646\u0627\u0645\u0647\u200c\u0627\u06cc", "👩\u200d🔬", "❤\ufe0f", "a\u00a0b"])
def test_a_name_may_have_what_no_address_may(name: str) -> None:
    assert parse_mailbox(f"{name} <ada@example.com>") == Address(name, "ada", "example.com")


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
