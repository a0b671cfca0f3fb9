"""What became of emails after they were sent: into the history, and the worst of it into the row."""

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
    """Keeps what providers say. Every method may raise StoreUnavailable and StoreRefused."""

    def __init__(self, store: EmailStore, events: EventStore) -> None:
        self._store = store
        self._events = events

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(EmailStore.from_settings(settings), EventStore.from_settings(settings))

    def record(self, events: Sequence[DeliveryEvent]) -> str | None:
        """Keep the events, which are of one email. Says what its row is then, or None without one.

        The same events again change nothing.
        """
        statuses = [event for event in events if event.status]
        worst = max(statuses, key=lambda event: RANKED.index(event.status), default=None)
        row = self._move(worst) if worst else self._look(events[0].email_id)
        # After the row: what an email without a row leaves is a dead letter, and it may come again.
        if row is not None:
            self.keep(events)
        return row

    def keep(self, events: Sequence[DeliveryEvent]) -> None:
        """Put the events into the history, and leave the row."""
        self._events.add(events)

    def _move(self, event: DeliveryEvent) -> str | None:
        assert event.status  # noqa: S101 (for the type checker: record has chosen it for that)
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
    """What a provider refused while it was given the email, as events."""
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
            description="refused while it was sent",
            diagnostic=recipient.response,
        )
        for recipient in refused
    ]
