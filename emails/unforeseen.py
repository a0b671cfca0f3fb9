"""What may be said of an exception that nobody foresaw: its text may quote an email, its type and place do not."""

from __future__ import annotations

import traceback
from pathlib import Path


class Unforeseen(Exception):
    """Stands for an exception that nobody foresaw, and says its type and where it was raised."""


def place(error: BaseException) -> str:
    """Like `KeyError in send (providers/smtp.py:41)`."""
    name = type(error).__name__
    if not (raised := traceback.extract_tb(error.__traceback__)):
        return name
    file = Path(raised[-1].filename)
    return f"{name} in {raised[-1].name} ({file.parent.name}/{file.name}:{raised[-1].lineno})"


def frames(error: BaseException) -> str:
    """A traceback without the exceptions' texts, the first cause first."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [frames(before), ""] if before else []
    lines += ["Traceback (most recent call last):", *traceback.format_tb(error.__traceback__), type(error).__name__]
    return "\n".join(line.rstrip("\n") for line in lines)
