"""What is done about a callback: into the email's history and, by rank, its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from structlog.contextvars import bind_contextvars

from celery_sqs import Reason
from emails.callbacks import parse_callback
from emails.delivery import Finished
from emails.tracking import EmailUnknown, Tracking

if TYPE_CHECKING:
    from settings import Settings


class RecordCallback:
    """A step of a Batch."""

    longest = 1.0  # a few writes; one that is cut off is made again

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(Tracking.from_settings(settings))

    def __call__(self, body: str, ends_at: float) -> Finished | Reason:
        events = parse_callback(body)
        if not events:
            return Finished("a provider tried whether its topic reaches us")
        bind_contextvars(email_id=events[0].email_id)
        try:
            outcome = self._tracking.record(events)
        except EmailUnknown:
            return Reason("EmailNotFound", "the email that the callback is about has no row")
        said = ", ".join(sorted({event.type for event in events}))
        return Finished(f"{said}: {outcome}")
