"""An error that AWS returns instead of a result."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """`code` is the error's name in the service's API. `members` is what the answer contains besides the message."""

    def __init__(self, code: str, message: str = "", **members: Any) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.members = members
