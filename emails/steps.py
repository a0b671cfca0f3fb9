"""The steps of an email's journey. Each turns a message's body or an email's id into an outcome.

Only this module decides what each failure leads to. A step raises StoreRefused, and any exception that is unexpected.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from structlog.contextvars import bind_contextvars

from celery_sqs.sqs.dead_letters import Reason
from emails.backoff import full_jitter
from emails.callbacks import PartlyInvalid, parse_callback
from emails.message import InvalidMessage, parse_message
from emails.outcome import LONGEST_DELAY_SECONDS, DeadLetter, Done, RetryLater
from emails.sender import EmailNotFound
from emails.store import ClaimUnanswered, StoreUnavailable

if TYPE_CHECKING:
    from emails.claim_tokens import Tokens
    from emails.decide import Send
    from emails.events import DeliveryEvent
    from emails.outcome import Outcome
    from emails.sender import Sender
    from emails.tracking import Tracking

FIRST_WAIT_SECONDS = 1


@dataclass(frozen=True)
class Carried:
    """What a message carries from earlier tries. Anybody who may send to the queue can write anything there."""

    attempt: int = 1  # how often the step was tried, including this time
    missing_since: object = None  # when the row was first found to be missing, in epoch seconds
    tokens: Tokens = ()  # of claims that got no answer


def read(body: str) -> str | DeadLetter:
    """Return the email_id in a message of the raw queue, or a DeadLetter if the body has none."""
    try:
        return parse_message(body)
    except InvalidMessage as error:
        return DeadLetter(Reason(error.reason, error.detail))


def load(sender: Sender, email_id: str, carried: Carried) -> Send | Outcome:
    """Read the row and decide whether the email may be sent."""
    _bind(sender, email_id)
    try:
        return sender.load(email_id)
    except (EmailNotFound, StoreUnavailable) as error:
        return _after(error, carried, sender.settings.missing_row_wait)


def send(sender: Sender, email_id: str, carried: Carried, ends_at: float = math.inf) -> Outcome:
    """Claim the email, send it, and record the result. The process may end at `ends_at` (epoch seconds)."""
    _bind(sender, email_id)
    try:
        return sender.send(email_id, ends_at, carried.tokens)
    except (EmailNotFound, StoreUnavailable) as error:
        return _after(error, carried, sender.settings.missing_row_wait)


def record_callback(tracking: Tracking, body: str, carried: Carried) -> Outcome:
    """Record a message of the callbacks queue in the email's history, and in its row if its status ranks higher."""
    invalid = None
    try:
        events = parse_callback(body)
    except PartlyInvalid as error:
        events, invalid = error.events, Reason(error.reason, error.detail)
    except InvalidMessage as error:
        return DeadLetter(Reason(error.reason, error.detail))
    if not (events or invalid):
        return Done(detail="a provider tested its topic")
    emails: dict[str, list[DeliveryEvent]] = {}
    for event in events:
        emails.setdefault(event.email_id, []).append(event)
    rows = []
    for email_id, its_events in emails.items():
        bind_contextvars(email_id=email_id)
        try:
            row = tracking.record(its_events)
        except StoreUnavailable as error:
            return _wait_for_store(error, carried)
        if row is None:
            invalid = Reason("EmailNotFound", "the email that the callback is about has no row")
        else:
            rows.append(row)
    # The whole callback is kept, even if some of its events are recorded: recording them again changes nothing.
    if invalid:
        return DeadLetter(invalid)
    return Done(detail=f"{', '.join(sorted({event.type for event in events}))}: {', '.join(sorted({*rows}))}")


def _bind(sender: Sender, email_id: str) -> None:
    """Name the email in every line that this step logs, and say if its recipients are replaced."""
    bind_contextvars(email_id=email_id)
    if sender.settings.redirect_to:
        bind_contextvars(redirected=True)


def _after(error: EmailNotFound | StoreUnavailable, carried: Carried, longest: float) -> RetryLater | DeadLetter:
    if isinstance(error, StoreUnavailable):
        return _wait_for_store(error, carried)
    return wait_for_row(carried.missing_since, time.time(), longest)


def _wait_for_store(error: StoreUnavailable, carried: Carried) -> RetryLater:
    """Wait until DynamoDB is available again. There is no limit to the time or to the number of tries."""
    seconds = full_jitter(carried.attempt, FIRST_WAIT_SECONDS, LONGEST_DELAY_SECONDS)
    tokens = error.tokens if isinstance(error, ClaimUnanswered) else carried.tokens
    return RetryLater(seconds, str(error), affects_all=True, tokens=tokens)


def wait_for_row(missing_since: object, now: float, longest: float) -> RetryLater | DeadLetter:
    """Wait for a row that the producer may still write: twice as long each time, `longest` seconds in all."""
    since = missing_since if _is_past(missing_since, now) else now
    waited = now - since
    if waited >= longest:
        return DeadLetter(Reason("EmailNotFound", f"no row appeared within {longest:g} seconds"))
    seconds = min(max(waited, FIRST_WAIT_SECONDS), longest - waited)
    return RetryLater(seconds, "it has no row yet", missing_since=since)


def _is_past(moment: object, now: float) -> TypeGuard[float]:
    """Whether a row can have been missing since then. A time in the future would make the wait too long."""
    return isinstance(moment, int | float) and not isinstance(moment, bool) and 0 < moment <= now
