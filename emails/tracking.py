"""Records what happened to emails after they were sent: all of it in the history, and the worst of it in the row."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from emails.events import DeliveryEvent, EventType
from emails.status import RANKED, TRACK, status_of
from emails.store import Conflict, EmailStore, EventStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emails.providers.contract import RefusedRecipient
    from settings import Settings


class Tracking:
    """Records what providers report. Every method may raise StoreUnavailable and StoreRefused."""

    def __init__(self, store: EmailStore, events: EventStore) -> None:
        self._store = store
        self._events = events

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(EmailStore.from_settings(settings), EventStore.from_settings(settings))

    def record(self, events: Sequence[DeliveryEvent]) -> str | None:
        """Record the events, which must be about one email. Returns what its row is then, or None if there is no row.

        Recording the same events again changes nothing.
        """
        statuses = [event for event in events if event.status]
        worst = max(statuses, key=lambda event: RANKED.index(event.status), default=None)
        row = self._move(worst) if worst else self._look(events[0].email_id)
        # The row comes first: if there is none, the callback becomes a dead letter, and may be sent again later.
        if row is not None:
            self.keep(events)
        return row

    def keep(self, events: Sequence[DeliveryEvent]) -> None:
        """Add the events to the history, and leave the row alone."""
        self._events.add(events)

    def _move(self, event: DeliveryEvent) -> str | None:
        assert event.status  # noqa: S101 (for the type checker: record passes only events with a status)
        reason = f"{event.type}: {event.description or event.reject_reason}" if event.reject_reason else ""
        try:
            self._store.track(event.email_id, TRACK[event.status], reason)
        except Conflict as conflict:
            return None if conflict.row is None else f"already {status_of(conflict.row)}"
        return event.status.value

    def _look(self, email_id: str) -> str | None:
        row = self._store.get(email_id)
        return None if row is None else f"still {status_of(row)}"


def refusals(email_id: str, provider: str, message_id: str, refused: Iterable[RefusedRecipient]) -> list[DeliveryEvent]:
    """Return the recipients that a provider refused during the send, as events."""
    now = datetime.now(UTC)
    return [
        DeliveryEvent(
            email_id,
            EventType.REJECTED,
            recipient.address,
            now,
            provider,
            message_id,
            recipient.reason,
            description="during the send",
            diagnostic=recipient.response,
        )
        for recipient in refused
    ]


def not_accepted(email_id: str, provider: str, why: str) -> DeliveryEvent:
    """Return the event that a provider did not accept the email for now, so that another is tried."""
    now = datetime.now(UTC)
    why = f"{provider}: {why}"
    return DeliveryEvent(email_id, EventType.DEFERRED, "", now, provider, per_provider=True, description=why)
