"""Load an email, then claim → send → record: what the tasks call, and whatever else sends."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from structlog.contextvars import bind_contextvars

from emails import attachments
from emails.backoff import full_jitter
from emails.claim_tokens import find_token, with_newest
from emails.email import Email, InvalidRow
from emails.events import RejectReason
from emails.providers import load_providers
from emails.providers.contract import (
    NoTellingError,
    PermanentError,
    RefusedRecipient,
    TemporaryError,
)
from emails.send_rate import SendRate
from emails.status import ABANDON, DISCARD, EmailStatus, status_of
from emails.store import Claim, ClaimUnanswered, Conflict, EmailStore, StoreUnavailable
from emails.tracking import EmailUnknown, Tracking, refusals
from emails.unforeseen import place
from settings.aws import client
from settings.model import S3_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emails.claim_tokens import Tokens
    from emails.providers.contract import Provider, Receipt
    from emails.status import Transition
    from emails.store import Row
    from settings import Settings

logger = logging.getLogger(__name__)

RECORD_RETRY_SECONDS = 0.5
EXPIRED = "expired"
ABANDONED = "a worker stopped between the claim and the record: the provider may have accepted it"
LEASE_GRACE_SECONDS = 1  # clocks of two workers differ; a lease is over when it is over on both


class EmailNotFound(Exception):
    """There is no such row (yet: the producer may write it a moment later)."""


@dataclass(frozen=True)
class Ready:
    """The email may be sent now."""

    email: Email


@dataclass(frozen=True)
class Later:
    """Nothing to do for so many seconds."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class Finished:
    """Nothing more to do for this message; the outcome is a line for a log."""

    outcome: str


@dataclass(frozen=True)
class _Settle:
    """The row is to take this transition, without a send."""

    transition: Transition
    reason: str
    outcome: str


Outcome = TypeVar("Outcome", Later, Finished)

ROW_CHANGED = Later(0, "the row changed meanwhile")


class Sender:
    """Delivers the emails of one store. Every method may raise EmailNotFound, StoreUnavailable and StoreRefused."""

    def __init__(self, store: EmailStore, providers: Mapping[str, Provider], settings: Settings) -> None:
        self._store = store
        self._providers = providers
        self._settings = settings
        self._s3 = client("s3", settings) if settings.attachment_prefixes else None
        self._rate = SendRate.from_settings(settings)

    @classmethod
    def from_settings(cls, settings: Settings) -> Sender:
        return cls(EmailStore.from_settings(settings), load_providers(settings), settings)

    @cached_property
    def _tracking(self) -> Tracking:
        """What few sends need: those of which a provider refuses some recipients."""
        return Tracking.from_settings(self._settings)

    def close(self) -> None:
        """Let no send wait for its turn any more: it comes later, by another worker."""
        if self._rate:
            self._rate.close()

    def watch(self, watched: Callable[[Provider], Provider]) -> None:
        """Send from now on by what `watched` makes of each provider."""
        self._providers = {name: watched(provider) for name, provider in self._providers.items()}

    def preview(self, email_id: str) -> Ready | Later | Finished:
        """What `load` would say, without the writes."""
        verdict = self._judge(self._get(email_id))
        return Finished(verdict.outcome) if isinstance(verdict, _Settle) else verdict

    def load(self, email_id: str) -> Ready | Later | Finished:
        """Judge the row: may it be sent? Settles what needs no send."""
        return self._follow(email_id, self._judge(self._get(email_id)))

    def send(self, email_id: str, ends_at: float = math.inf, tokens: Tokens = ()) -> Later | Finished:
        """Claim the email, send what the claim returned, record what became of it.

        Gives the claim up where the process may end (`ends_at`, epoch seconds) before the provider has answered.
        `tokens` are those of the message's earlier claims that got no answer.

        Raises:
            ClaimUnanswered: with the tokens for the message's next sender.
        """
        if self._rate and not self._rate.wait():
            return Later(1, "the worker stopped before its turn came")
        try:
            claim = self._claim(email_id, tokens)
        except Conflict as conflict:
            if conflict.row is None:
                raise EmailNotFound from None
            if find_token(conflict.row, tokens):  # a claim of ours came late
                return ROW_CHANGED
            outcome = self._follow(email_id, self._judge(conflict.row))
            return ROW_CHANGED if isinstance(outcome, Ready) else outcome
        verdict = self._judge_content(claim.row)
        if isinstance(verdict, Ready):
            return self._send(verdict.email, claim, ends_at)
        if isinstance(verdict, Later):
            return self._give_back(claim, verdict.seconds, verdict.reason, counted=False)
        reason = verdict.reason
        return self._settle(claim, lambda: self._store.fail(claim, reason), Finished(verdict.outcome))

    def cancel(self, email_id: str, reason: str) -> bool:
        """Keep a Pending email from being sent; says whether it was one."""
        try:
            self._store.settle(email_id, DISCARD, reason)
        except Conflict:
            return False
        return True

    def _get(self, email_id: str) -> Row:
        row = self._store.get(email_id)
        if row is None:
            raise EmailNotFound
        return row

    def _claim(self, email_id: str, tokens: Tokens) -> Claim:
        """Claim the email, or take over a claim of this message that got no answer."""
        # The read comes first so that no further token comes up while DynamoDB is away.
        unanswered = find_token(self._get(email_id), tokens) if tokens else None
        lease = self._settings.claim_lease
        try:
            if unanswered:
                return self._store.take_over(email_id, unanswered, lease=lease)
            return self._store.claim(email_id, lease=lease)
        except ClaimUnanswered as error:
            raise ClaimUnanswered(str(error), with_newest(tokens, unanswered, *error.tokens)) from error

    def _judge(self, row: Row) -> Ready | Later | Finished | _Settle:
        """What the row says is to be done. Changes nothing."""
        status = status_of(row)
        if status == EmailStatus.SENDING:
            expires_at = row.get("ClaimExpiresAt")
            left = float(expires_at if isinstance(expires_at, Decimal) else 0) + LEASE_GRACE_SECONDS - time.time()
            if left > 0:
                return Later(left, "another worker holds its claim")
            return _Settle(ABANDON, ABANDONED, "Unknown: the claim expired")
        if status not in (EmailStatus.PENDING, None):
            return Finished(f"already {status}")
        return self._judge_content(row)

    def _judge_content(self, row: Row) -> Ready | Later | _Settle:
        try:
            email = Email.from_row(row)
        except InvalidRow as error:
            return _Settle(DISCARD, str(error), "Failed: invalid row")
        if refusal := self._refusal(email):
            return _Settle(DISCARD, refusal, f"Failed: {refusal}")
        wait = max(email.next_attempt_at - time.time(), _seconds_until_due(email))
        return Later(wait, "it is not due yet") if wait > 0 else Ready(email)

    def _follow(self, email_id: str, verdict: Ready | Later | Finished | _Settle) -> Ready | Later | Finished:
        if not isinstance(verdict, _Settle):
            return verdict
        try:
            self._store.settle(email_id, verdict.transition, verdict.reason)
        except Conflict:
            return ROW_CHANGED
        return Finished(verdict.outcome)

    def provider(self, email: Email) -> Provider:
        """The one that sends this email."""
        return self._providers[email.send_via or self._settings.provider]

    def _refusal(self, email: Email) -> str:
        """Why the email must not be sent at all, or nothing."""
        if email.expires_at and email.expires_at.timestamp() <= time.time():
            return EXPIRED
        if email.send_via and email.send_via not in self._providers:
            return f"SendVia: names none of the providers {', '.join(self._providers)}"
        return attachments.refusal(email, self._settings.attachment_prefixes)

    def _send(self, email: Email, claim: Claim, ends_at: float) -> Later | Finished:
        bind_contextvars(sends=int(email.attempts))
        provider = self.provider(email)
        ends_at = min(claim.expires_at, ends_at)
        try:
            if self._s3:
                email = attachments.fetch(self._s3, email, ends_at - max(S3_SECONDS, provider.longest_send))
            if ends_at - time.time() < provider.longest_send:
                return self._give_back(claim, 0, "the claim took too long to reach the provider", counted=False)
            receipt = _send_by(provider, email)
        except TemporaryError as error:
            return self._try_again(claim, email, error)
        except PermanentError as error:
            return self._fail(claim, provider.name, error)
        except NoTellingError as error:
            return self._lose_track(claim, str(error))
        return self._record(claim, receipt)

    def _record(self, claim: Claim, receipt: Receipt) -> Later | Finished:
        def write() -> None:
            self._store.record(claim, receipt)
            if receipt.refused:
                self._tracking.record(refusals(claim.email_id, receipt.provider, receipt.message_id, receipt.refused))

        refused = f": {len(receipt.refused)} recipients refused" if receipt.refused else ""
        return self._settle(claim, write, Finished(f"Sent{refused}"))

    def _fail(self, claim: Claim, provider: str, error: PermanentError) -> Later | Finished:
        reason, refused = str(error), error.refused
        if not refused and error.reject_reason != RejectReason.OTHER:
            refused = (RefusedRecipient("", error.reject_reason),)  # the email as a whole

        def write() -> None:
            self._store.fail(claim, reason)
            if refused:
                self._tracking.keep(refusals(claim.email_id, provider, "", refused))

        return self._settle(claim, write, Finished(f"Failed: {reason}"))

    def _lose_track(self, claim: Claim, reason: str) -> Finished:
        return self._settle(claim, lambda: self._store.lose_track(claim, reason), Finished(f"Unknown: {reason}"))

    def _try_again(self, claim: Claim, email: Email, error: TemporaryError) -> Later | Finished:
        attempt = int(email.attempts)
        if attempt >= self._settings.max_attempts:
            reason = f"{error} (attempt {attempt}, the last)"
            return self._settle(claim, lambda: self._store.fail(claim, reason), Finished(f"Failed: {reason}"))
        delay = full_jitter(attempt, self._settings.retry_delay, self._settings.retry_delay_max)
        return self._give_back(claim, max(delay, error.retry_after), f"{error} (attempt {attempt})")

    def _give_back(self, claim: Claim, seconds: float, reason: str, *, counted: bool = True) -> Later | Finished:
        at = time.time() + seconds
        return self._settle(
            claim,
            lambda: self._store.give_back(claim, next_attempt_at=at, reason=reason, counted=counted),
            Later(seconds, reason),
        )

    def _settle(self, claim: Claim, write: Callable[[], None], outcome: Outcome) -> Outcome | Finished:
        """Write what became of the send, again and again while the lease lasts.

        Raises:
            StoreUnavailable: the lease is over; the rule for expired leases settles the row.
        """
        while True:
            try:
                write()
            except Conflict as conflict:
                status = status_of(conflict.row or {})
                logger.warning("the claim was lost to another's; the row says %s", status)
                return Finished(f"already {status}")
            except EmailUnknown:
                logger.warning("the row was deleted after the send: its history is without what was refused")
                return outcome
            except StoreUnavailable:
                if time.time() > claim.expires_at:
                    raise
                logger.warning("the outcome is not written yet: retrying until the claim ends")
                time.sleep(RECORD_RETRY_SECONDS)
            else:
                return outcome


def _send_by(provider: Provider, email: Email) -> Receipt:
    try:
        return provider.send(email)
    except (TemporaryError, PermanentError, NoTellingError):
        raise
    except Exception as error:  # noqa: BLE001 (what the provider did not foresee tells nothing of what left)
        # Without its text, which may quote the email.
        logger.error("the provider raised %s", place(error))
        raise NoTellingError(f"the provider raised {type(error).__name__}") from None


def _seconds_until_due(email: Email) -> float:
    return email.send_after.timestamp() - time.time() if email.send_after else 0
