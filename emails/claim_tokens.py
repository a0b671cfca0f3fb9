"""The tokens of claims that got no answer. A message's delayed copy carries them so that it can take over such a claim.

`ClaimedBy` in a row is a digest of the claim's token, so somebody who can read the row cannot take over the claim of a
worker that is sending. A worker publishes a token only if the claim got no answer, and then sends nothing under it.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import uuid4

from emails.status import TAKE_OVER, status_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

Tokens = tuple[str, ...]

# A copy carries only this many tokens, the newest. An older claim request cannot arrive any more: after that many
# backoffs AWS refuses it because its signature is too old (IAM User Guide, "Signature Version 4").
MOST_TOKENS = 8
_TOKEN = re.compile(r"\b[0-9a-f]{32}\b")


def new_token() -> str:
    """Return a new token, which nobody can guess."""
    return uuid4().hex


def claim_id(token: str) -> str:
    """Return the value of `ClaimedBy` for a claim with this token."""
    return sha256(token.encode()).hexdigest()[:32]


def find_token(row: Mapping[str, Any], tokens: Tokens) -> str | None:
    """Return the token that belongs to the row's claim, or None if there is none or the claim cannot be taken over."""
    if status_of(row) not in TAKE_OVER.sources:
        return None
    return next((token for token in tokens if claim_id(token) == row.get("ClaimedBy")), None)


def with_newest(tokens: Tokens, *newest: str | None) -> Tokens:
    """Return the tokens for the next copy. `newest` are those that the row's claim may have now."""
    last = tuple(token for token in newest if token)
    return (*(token for token in tokens if token not in last), *last)[-MOST_TOKENS:]


def to_text(tokens: Tokens) -> str:
    """Return the tokens as the text that a message carries."""
    return " ".join(tokens)


def from_text(text: object) -> Tokens:
    """Return the tokens that a message carries. Any sender to the queue can write the text, so it may be anything."""
    return tuple(_TOKEN.findall(text)[-MOST_TOKENS:]) if isinstance(text, str) else ()
