"""What is done about a callback: into the email's history and, by rank, its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from emails import steps
from emails.tracking import Tracking

if TYPE_CHECKING:
    from emails.outcome import Outcome
    from emails.steps import Carried
    from settings import Settings


class RecordCallback:
    """A step of a Batch."""

    longest = 1.0  # a few writes; one that is cut off is made again

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(Tracking.from_settings(settings))

    def __call__(self, body: str, carried: Carried, ends_at: float) -> Outcome:
        return steps.record_callback(self._tracking, body, carried)
