"""Parses an RFC 5322 mailbox: `ada@example.com`, or `Ada Lovelace <ada@example.com>`."""

from __future__ import annotations

import re
import unicodedata
from email.headerregistry import Address
from functools import lru_cache

import idna

MAX_LOCAL_PART_BYTES = 64  # RFC 5321, section 4.5.3.1.1
MAX_MAILBOX = 998  # characters, as in a line (RFC 5322, section 2.1.1); checked first, since the patterns are slow
MAX_ADDRESS_BYTES = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets of the path

# RFC 5322, section 3.2.3, with the non-ASCII characters that RFC 6532 adds.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+"
_DOT_ATOM = rf"{_ATOM}(?:\.{_ATOM})*"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_LABEL = r"[A-Za-z0-9\x80-\U0010ffff](?:[A-Za-z0-9\x80-\U0010ffff-]*[A-Za-z0-9\x80-\U0010ffff])?"
_ADDRESS = re.compile(rf"(?P<local>{_DOT_ATOM}|{_QUOTED})@(?P<domain>{_LABEL}(?:\.{_LABEL})*)")
_NAMED = re.compile(rf'(?P<name>{_QUOTED}\s*|[^"<>()@,;:\\]*)<(?P<address>[^<>]*)>')
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# Format characters, spaces, and the other characters that are not shown (Default_Ignorable_Code_Point in Unicode's
# DerivedCoreProperties.txt).
_INVISIBLE_CATEGORIES = frozenset({"Cf", "Zs"})
_INVISIBLE_OTHERS = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def parse_mailbox(text: str) -> Address:
    """Parse a mailbox, and convert its domain to ASCII.

    Raises:
        ValueError: the text is not a mailbox. The message says why, without quoting it.
    """
    if CONTROL_CHARACTERS.search(text):
        raise ValueError("has a control character")
    if len(text) > MAX_MAILBOX:
        raise ValueError(f"is longer than {MAX_MAILBOX} characters")
    text = text.strip()
    if "@" not in text:
        raise ValueError("is not an address: it has no @")
    named = _NAMED.fullmatch(text)
    address = named["address"].strip() if named else text
    check_visible(address)
    match = _ADDRESS.fullmatch(address)
    local = _unquoted(match["local"]) if match else ""
    # Address drops the quotes around a local part, even if it needs them because it is empty or because of its dots.
    if not match or "" in local.split("."):
        raise ValueError('is not an address like ada@example.com or "Ada Lovelace" <ada@example.com>')
    if len(match["local"].encode()) > MAX_LOCAL_PART_BYTES or len(match[0].encode()) > MAX_ADDRESS_BYTES:
        raise ValueError(f"is longer than {MAX_LOCAL_PART_BYTES} bytes before the @, or {MAX_ADDRESS_BYTES} in all")
    try:
        domain = _to_ascii(match["domain"])
    except idna.IDNAError:
        raise ValueError("has a domain that is not valid (IDNA 2008)") from None
    return Address(_unquoted(named["name"].strip()) if named else "", local, domain)


def check_visible(address: str) -> None:
    """Check that a reader can see every character of the address.

    An invisible character, such as a U+200B that was copied from a web page together with the address, makes it the
    address of another mailbox that looks the same. UTS 46 would silently drop such a character from a domain.

    Raises:
        ValueError: the address has an invisible character. The message says which.
    """
    if address.isascii():
        return
    for character in address:
        if not character.isascii() and (
            unicodedata.category(character) in _INVISIBLE_CATEGORIES or _INVISIBLE_OTHERS.match(character)
        ):
            raise ValueError(f"has an invisible character, U+{ord(character):04X}, in its address")


@lru_cache(maxsize=1000)  # most mail goes to a few domains, and each email is parsed twice: to decide and to send
def _to_ascii(domain: str) -> str:
    # The standard library's codec implements IDNA 2003, which sends mail for faß.de to fass.de. This is IDNA 2008.
    ascii_domain = idna.encode(domain, uts46=True).decode()
    check_visible(idna.decode(ascii_domain))  # IDNA 2008 allows a zero-width joiner between some letters
    return ascii_domain


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text
