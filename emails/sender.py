"""Claims an email, sends it and records the result, after reading the row and deciding what it calls for."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from structlog.contextvars import bind_contextvars

from emails import attachments
from emails.backoff import full_jitter
from emails.claim_tokens import find_token, with_newest
from emails.decide import End, Send, decide, decide_by_content
from emails.events import RejectReason
from emails.logs import place
from emails.outcome import Done, RetryLater
from emails.providers import load_providers
from emails.providers.contract import (
    PermanentError,
    RefusedRecipient,
    TemporaryError,
    UnknownResultError,
)
from emails.send_rate import SendRate
from emails.status import DISCARD, EmailStatus, status_of
from emails.store import Claim, ClaimUnanswered, Conflict, EmailStore, StoreUnavailable
from emails.tracking import Tracking, refusals
from settings.aws import client
from settings.model import S3_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emails.claim_tokens import Tokens
    from emails.email import Email
    from emails.providers.contract import Provider, Receipt, SendError
    from emails.store import Row
    from settings import Settings

logger = logging.getLogger(__name__)

RECORD_RETRY_SECONDS = 0.5
ROW_CHANGED = RetryLater(0, "the row has changed")


class EmailNotFound(Exception):
    """There is no such row. The producer may still write it a moment later."""


class Sender:
    """Sends the emails of one store. Every method may raise EmailNotFound, StoreUnavailable and StoreRefused."""

    def __init__(self, store: EmailStore, providers: Mapping[str, Provider], settings: Settings) -> None:
        self._store = store
        self._providers = providers
        self.settings = settings
        self._s3 = client("s3", settings) if settings.attachment_prefixes else None
        self._rate = SendRate.from_settings(settings)

    @classmethod
    def from_settings(cls, settings: Settings) -> Sender:
        return cls(EmailStore.from_settings(settings), load_providers(settings), settings)

    @cached_property
    def _tracking(self) -> Tracking:
        """The Tracking. It is made on demand, because only the few sends with refused recipients need it."""
        return Tracking.from_settings(self.settings)

    @property
    def longest(self) -> float:
        """The longest that a send may take, in seconds, including the attachments that it fetches."""
        longest_fetch = S3_SECONDS if self._s3 else 0
        return longest_fetch + max(provider.longest_send for provider in self._providers.values())

    def close(self) -> None:
        """Stop every send that is waiting for its turn. Another worker sends those emails later."""
        if self._rate:
            self._rate.close()

    def watch(self, watched: Callable[[Provider], Provider]) -> None:
        """Replace each provider by what `watched` returns for it."""
        self._providers = {name: watched(provider) for name, provider in self._providers.items()}

    def preview(self, email_id: str) -> Send | End | RetryLater | Done:
        """Return what the row calls for now. Changes nothing."""
        return decide(self._get(email_id), time.time(), self.settings)

    def load(self, email_id: str) -> Send | RetryLater | Done:
        """Return what the row calls for now. If that is an end without a send, it is written to the row."""
        return self._end(email_id, self.preview(email_id))

    def send(self, email_id: str, ends_at: float = math.inf, tokens: Tokens = ()) -> RetryLater | Done:
        """Claim the email, send what the claim returned, and record the result.

        If the process may end (`ends_at`, epoch seconds) before the provider has answered, nothing is sent and the
        claim is given back. `tokens` are those of the message's earlier claims that got no answer.

        Raises:
            ClaimUnanswered: the claim got no answer. The exception has the tokens for the message's next try.
        """
        if self._rate and not self._rate.wait():
            return RetryLater(1, "the worker stopped before the email's turn came")
        try:
            claim = self._claim(email_id, tokens)
        except Conflict as conflict:
            if conflict.row is None:
                raise EmailNotFound from None
            if find_token(conflict.row, tokens):  # one of our claims took effect late
                return ROW_CHANGED
            decision = self._end(email_id, decide(conflict.row, time.time(), self.settings))
            return ROW_CHANGED if isinstance(decision, Send) else decision
        match decide_by_content(claim.row, time.time(), self.settings):
            case Send(email):
                return self._send(email, claim, ends_at)
            case RetryLater(seconds, reason):
                return self._give_back(claim, seconds, reason, counted=False)
            case End(_, reason, done):
                return self._write(claim, lambda: self._store.fail(claim, reason), done)

    def cancel(self, email_id: str, reason: str) -> bool:
        """Keep a Pending email from being sent. Returns whether it was still Pending."""
        try:
            self._store.end(email_id, DISCARD, reason)
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
        # The row is read first, so that no further token is made while DynamoDB is unavailable.
        unanswered = find_token(self._get(email_id), tokens) if tokens else None
        lease = self.settings.claim_lease
        try:
            if unanswered:
                return self._store.take_over(email_id, unanswered, lease=lease)
            return self._store.claim(email_id, lease=lease)
        except ClaimUnanswered as error:
            raise ClaimUnanswered(str(error), with_newest(tokens, unanswered, *error.tokens)) from error

    def _end(self, email_id: str, decision: Send | End | RetryLater | Done) -> Send | RetryLater | Done:
        if not isinstance(decision, End):
            return decision
        try:
            self._store.end(email_id, decision.transition, decision.reason)
        except Conflict:
            return ROW_CHANGED
        return decision.done

    def provider(self, email: Email) -> Provider:
        """Return the provider that sends this email."""
        return self._providers[email.send_via or self.settings.provider]

    def _send(self, email: Email, claim: Claim, ends_at: float) -> RetryLater | Done:
        bind_contextvars(sends=int(email.attempts))
        provider, asked, redirect_to = self.provider(email), "", self.settings.redirect_to
        ends_at = min(claim.expires_at, ends_at)
        try:
            if self._s3:
                email = attachments.fetch(self._s3, email, ends_at - max(S3_SECONDS, provider.longest_send))
            if ends_at - time.time() < provider.longest_send:
                return self._give_back(claim, 0, "there was too little time left to send it", counted=False)
            asked = provider.name
            receipt = _send_by(provider, email.redirected(redirect_to) if redirect_to else email)
        except TemporaryError as error:
            return self._record_temporary(claim, email, error, asked)
        except PermanentError as error:
            return self._record_permanent(claim, error, asked)
        except UnknownResultError as error:
            reason = self._reason(error)
            done = Done(EmailStatus.UNKNOWN, reason, asked)
            return self._write(claim, lambda: self._store.mark_unknown(claim, reason), done)
        return self._record_sent(claim, replace(receipt, redirected_to=redirect_to))

    def _reason(self, error: SendError) -> str:
        return f"{error}; the email was redirected" if self.settings.redirect_to else str(error)

    def _record_sent(self, claim: Claim, receipt: Receipt) -> RetryLater | Done:
        refused = receipt.refused

        def write() -> None:
            self._store.record(claim, receipt)
            events = refusals(claim.email_id, receipt.provider, receipt.message_id, refused)
            if events and self._tracking.record(events) is None:
                logger.warning("the row was deleted after the send: the rejected recipients are not in its history")

        # The row and the history call it `rejected` too, as django-anymail does.
        detail = f"{len(refused)} recipient{'s' * (len(refused) > 1)} rejected during the send" if refused else ""
        return self._write(claim, write, Done(EmailStatus.SENT, detail, receipt.provider))

    def _record_permanent(self, claim: Claim, error: PermanentError, asked: str) -> RetryLater | Done:
        reason, refused = self._reason(error), error.refused
        if not refused and error.reject_reason != RejectReason.OTHER:
            refused = (RefusedRecipient("", error.reject_reason),)  # the email as a whole

        def write() -> None:
            self._store.fail(claim, reason)
            if refused:
                self._tracking.keep(refusals(claim.email_id, asked, "", refused))

        return self._write(claim, write, Done(EmailStatus.FAILED, reason, asked))

    def _record_temporary(self, claim: Claim, email: Email, error: TemporaryError, asked: str) -> RetryLater | Done:
        attempt = int(email.attempts)
        if attempt >= self.settings.max_attempts:
            reason = f"{self._reason(error)} (attempt {attempt}, the last)"
            done = Done(EmailStatus.FAILED, reason, asked)
            return self._write(claim, lambda: self._store.fail(claim, reason), done)
        delay = full_jitter(attempt, self.settings.retry_delay, self.settings.retry_delay_max)
        return self._give_back(claim, max(delay, error.retry_after), f"{self._reason(error)} (attempt {attempt})")

    def _give_back(self, claim: Claim, seconds: float, reason: str, *, counted: bool = True) -> RetryLater | Done:
        at = time.time() + seconds
        return self._write(
            claim,
            lambda: self._store.give_back(claim, next_attempt_at=at, reason=reason, counted=counted),
            RetryLater(seconds, reason),
        )

    def _write(self, claim: Claim, write: Callable[[], None], outcome: RetryLater | Done) -> RetryLater | Done:
        """Write the result of the claim. While DynamoDB is unavailable, retry until the lease ends.

        Raises:
            StoreUnavailable: the lease has ended, so the rule for expired leases applies.
        """
        while True:
            try:
                write()
            except Conflict as conflict:
                status = status_of(conflict.row or {})
                logger.warning("another worker has taken over the claim; the row's status is %s", status)
                return Done(detail=f"already {status}")
            except StoreUnavailable:
                if time.time() > claim.expires_at:
                    raise
                logger.warning("the result could not be written yet; retrying until the claim ends")
                time.sleep(RECORD_RETRY_SECONDS)
            else:
                return outcome


def _send_by(provider: Provider, email: Email) -> Receipt:
    try:
        return provider.send(email)
    except (TemporaryError, PermanentError, UnknownResultError):
        raise
    except Exception as error:  # noqa: BLE001 (an unexpected error does not say whether the email was sent)
        # The error's text is not logged, because it may quote the email.
        logger.error("the provider raised %s", place(error))
        raise UnknownResultError(f"the provider raised {type(error).__name__}") from None
