"""The tokens of claims that got no answer: a message's delayed copy carries them, and takes such a claim over.

A row's `ClaimedBy` is a digest of its claim's token, so whoever can read the row cannot take over the claim of a worker
that is sending. A worker publishes a token only after the claim got no answer, and then sends nothing under that claim.
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

# A copy carries the newest. A request that is older than a few of its backoffs cannot arrive any more: AWS refuses it
# by the time of its signature (IAM User Guide, "Signature Version 4").
MOST_TOKENS = 8
_TOKEN = re.compile(r"\b[0-9a-f]{32}\b")


def new_token() -> str:
    """A token that nobody can guess."""
    return uuid4().hex


def claim_id(token: str) -> str:
    """What `ClaimedBy` says of the claim with this token."""
    return sha256(token.encode()).hexdigest()[:32]


def find_token(row: Mapping[str, Any], tokens: Tokens) -> str | None:
    """Which of the tokens belongs to the row's claim, if that claim can be taken over."""
    if status_of(row) not in TAKE_OVER.sources:
        return None
    return next((token for token in tokens if claim_id(token) == row.get("ClaimedBy")), None)


def with_newest(tokens: Tokens, *newest: str | None) -> Tokens:
    """The tokens that the next copy carries. The newest are those that the row's claim may have now."""
    last = tuple(token for token in newest if token)
    return (*(token for token in tokens if token not in last), *last)[-MOST_TOKENS:]


def to_text(tokens: Tokens) -> str:
    """As a message carries them."""
    return " ".join(tokens)


def from_text(text: object) -> Tokens:
    """What a message carries, whatever it is: whoever may send to the queue can write it."""
    return tuple(_TOKEN.findall(text)[-MOST_TOKENS:]) if isinstance(text, str) else ()
