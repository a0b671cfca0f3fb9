"""Claims an email, sends it and records the result, after reading the row and deciding what it calls for."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from structlog.contextvars import bind_contextvars

from emails import attachments
from emails.backoff import full_jitter
from emails.claim_tokens import find_token, with_newest
from emails.decide import End, Send, decide, decide_by_content
from emails.email import Email, InvalidRow
from emails.events import RejectReason
from emails.fail_over import Failures, choose
from emails.logs import place
from emails.outcome import Done, RetryLater
from emails.providers import load_providers
from emails.providers.contract import (
    PermanentError,
    RefusedRecipient,
    TemporaryError,
    UnknownResultError,
)
from emails.send_rate import send_rates
from emails.status import DISCARD, EmailStatus, status_of
from emails.store import Claim, ClaimUnanswered, Conflict, EmailStore, StoreRefused, StoreUnavailable
from emails.tracking import Tracking, not_accepted, refusals
from settings.aws import client
from settings.model import S3_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from emails.claim_tokens import Tokens
    from emails.events import DeliveryEvent
    from emails.providers.contract import Provider, Receipt, SendError
    from emails.store import Row
    from emails.store.rows import Tried
    from settings import Settings

logger = logging.getLogger(__name__)

RECORD_RETRY_SECONDS = 0.5
ROW_CHANGED = RetryLater(0, "the row has changed")


class EmailNotFound(Exception):
    """There is no such row. The producer may still write it a moment later."""


class Sender:
    """Sends the emails of one store. Every method may raise EmailNotFound, StoreUnavailable and StoreRefused."""

    def __init__(
        self,
        store: EmailStore,
        providers: Mapping[str, Provider],
        settings: Settings,
        own_rates: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._providers = providers
        self.settings = settings
        self._s3 = client("s3", settings) if settings.attachment_prefixes else None
        self._rates = send_rates(settings, own_rates)
        self._failures = Failures()

    @classmethod
    def from_settings(cls, settings: Settings, own_rates: Mapping[str, float] = MappingProxyType({})) -> Sender:
        """Return a Sender. `own_rates` are the send rates that providers allow, for use without EMAIL_SEND_RATE."""
        return cls(EmailStore.from_settings(settings), load_providers(settings), settings, own_rates)

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
        for rate in self._rates.values():
            rate.close()

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
        failing = self._failures.failing()
        turn = self._turn(email_id, failing) if self._rates else ""
        if turn in self._rates and not self._rates[turn].wait():
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
        return self._send_claimed(claim, ends_at, turn, failing)

    def _send_claimed(self, claim: Claim, ends_at: float, turn: str, failing: Collection[str]) -> RetryLater | Done:
        """Send what the claim returned, unless that needs another provider's turn than the one that was taken."""
        match decide_by_content(claim.row, time.time(), self.settings):
            case Send(email):
                name = choose(email, self.settings.provider, failing)
                if turn and name != turn:
                    return self._give_back(claim, 0, ROW_CHANGED.reason)
                return self._send(email, claim, ends_at, name)
            case RetryLater(seconds, reason):
                return self._give_back(claim, seconds, reason)
            case End(_, reason, done):
                return self._write(claim, lambda: self._store.fail(claim, reason), done)

    def _turn(self, email_id: str, failing: Collection[str]) -> str:
        """Return the provider whose turn the email has to wait for, as far as its row says before the claim."""
        first, *others = self.settings.providers
        if not others:
            return first
        try:
            return choose(Email.from_row(self._get(email_id)), self.settings.provider, failing)
        except InvalidRow:  # the claim returns the row, and its status will say what is wrong
            return first

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
        return self._providers[choose(email, self.settings.provider, self._failures.failing())]

    def _send(self, email: Email, claim: Claim, ends_at: float, name: str) -> RetryLater | Done:
        bind_contextvars(sends=int(email.attempts))
        provider, asked, redirect_to = self._providers[name], "", self.settings.redirect_to
        ends_at = min(claim.expires_at, ends_at)
        try:
            if self._s3:
                email = attachments.fetch(self._s3, email, ends_at - max(S3_SECONDS, provider.longest_send))
            if ends_at - time.time() < provider.longest_send:
                return self._give_back(claim, 0, "there was too little time left to send it")
            asked = name
            receipt = _send_by(provider, email.redirected(redirect_to) if redirect_to else email)
        except TemporaryError as error:
            if asked:
                self._failed(asked, error.retry_after)
            return self._record_temporary(claim, email, error, asked)
        except PermanentError as error:
            self._failures.answered(asked)
            return self._record_permanent(claim, email, error, asked)
        except UnknownResultError as error:
            self._failed(asked)
            reason, tried = self._reason(error, email, asked), self._tried(email, asked)
            done = Done(EmailStatus.UNKNOWN, reason, asked)
            return self._write(claim, lambda: self._store.mark_unknown(claim, reason, tried), done)
        self._failures.answered(asked)
        return self._record_sent(claim, replace(receipt, redirected_to=redirect_to))

    def _failed(self, asked: str, retry_after: float = 0.0) -> None:
        if len(self.settings.provider) > 1:  # otherwise there is nothing to choose, and nothing to log
            self._failures.failed(asked, retry_after)

    def _reason(self, error: SendError, email: Email, asked: str) -> str:
        reason = f"{asked}: {error}" if self._tried(email, asked) else str(error)
        return f"{reason}; the email was redirected" if self.settings.redirect_to else reason

    def _tried(self, email: Email, asked: str) -> Tried | None:
        """Return how often each provider was tried, if the email may fail over and a provider was asked."""
        if not asked or email.send_via or len(self.settings.provider) == 1:
            return None
        return {**email.providers_tried, asked: email.providers_tried.get(asked, 0) + 1}

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

    def _record_permanent(self, claim: Claim, email: Email, error: PermanentError, asked: str) -> RetryLater | Done:
        reason, tried, refused = self._reason(error, email, asked), self._tried(email, asked), error.refused
        if not refused and error.reject_reason != RejectReason.OTHER:
            refused = (RefusedRecipient("", error.reject_reason),)  # the email as a whole

        def write() -> None:
            self._store.fail(claim, reason, tried)
            if refused:
                self._tracking.keep(refusals(claim.email_id, asked, "", refused))

        return self._write(claim, write, Done(EmailStatus.FAILED, reason, asked))

    def _record_temporary(self, claim: Claim, email: Email, error: TemporaryError, asked: str) -> RetryLater | Done:
        attempt, tried, reason = int(email.attempts), self._tried(email, asked), self._reason(error, email, asked)
        is_last = attempt >= self.settings.max_attempts
        reason = f"{reason} (attempt {attempt}{', the last' if is_last else ''})"
        if tried and any(name not in tried for name in self.settings.provider):
            delay = 0.0  # the next provider has not been tried yet, and this one's Retry-After does not concern it
        else:
            delay = full_jitter(attempt, self.settings.retry_delay, self.settings.retry_delay_max)
            delay = max(delay, error.retry_after)
        at = time.time() + delay
        event = not_accepted(claim.email_id, asked, str(error)) if tried else None

        def write() -> None:
            if is_last:
                self._store.fail(claim, reason, tried)
            else:
                self._store.give_back(claim, next_attempt_at=at, reason=reason, tried=tried)

        done = Done(EmailStatus.FAILED, reason, asked)
        outcome = self._write(claim, write, done if is_last else RetryLater(delay, reason))
        if event:
            self._keep(event)
        return outcome

    def _keep(self, event: DeliveryEvent) -> None:
        """Add the event to the history, once. The row matters more, and says already what has happened."""
        try:
            self._tracking.keep([event])
        except (StoreRefused, StoreUnavailable) as error:
            logger.warning("the history does not show that %s did not accept the email: %s", event.provider, error)

    def _give_back(self, claim: Claim, seconds: float, reason: str) -> RetryLater | Done:
        """Give back a claim under which nothing was sent. It does not count as an attempt."""
        at = time.time() + seconds
        return self._write(
            claim,
            lambda: self._store.give_back(claim, next_attempt_at=at, reason=reason, counted=False),
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
