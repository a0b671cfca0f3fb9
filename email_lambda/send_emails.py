"""What is done about a raw message: the email it names is judged, claimed, sent and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from structlog.contextvars import bind_contextvars

from emails.message import parse_message
from emails.providers import load_providers
from emails.sender import Ready, Sender
from emails.store import EmailStore
from settings.model import S3_SECONDS

if TYPE_CHECKING:
    from emails.claim_tokens import Tokens
    from emails.sender import Finished, Later
    from settings import Settings


class SendEmail:
    """A step of a Batch."""

    def __init__(self, sender: Sender, longest: float) -> None:
        self._sender = sender
        self.longest = longest

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        providers = load_providers(settings)
        store = EmailStore.from_settings(settings)
        longest_send = max(provider.longest_send for provider in providers.values())
        longest_fetch = S3_SECONDS if settings.attachment_prefixes else 0
        return cls(Sender(store, providers, settings), longest_fetch + longest_send)

    def __call__(self, body: str, ends_at: float, tokens: Tokens = ()) -> Later | Finished:
        email_id = parse_message(body)
        bind_contextvars(email_id=email_id)
        if tokens:
            return self._sender.send(email_id, ends_at, tokens)
        # A read first: a row that is not to be sent now would cost a claim, and a write that takes the claim back.
        verdict = self._sender.load(email_id)
        return self._sender.send(email_id, ends_at) if isinstance(verdict, Ready) else verdict
