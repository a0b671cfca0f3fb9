"""A request as a service makes it, whichever program received it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class WebhookRequest:
    """The headers have lower-case names."""

    headers: Mapping[str, str]
    body: bytes


class NotVerified(Exception):
    """The request has no signature or password that is valid for one of the service's secrets."""
