"""What is done about a raw message: the email it names is judged, claimed, sent and recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from emails import steps
from emails.decide import Send
from emails.outcome import DeadLetter
from emails.providers import load_providers
from emails.sender import Sender
from emails.store import EmailStore
from settings.model import S3_SECONDS

if TYPE_CHECKING:
    from emails.outcome import Outcome
    from emails.steps import Carried
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

    def __call__(self, body: str, carried: Carried, ends_at: float) -> Outcome:
        email_id = steps.read(body)
        if isinstance(email_id, DeadLetter):
            return email_id
        # A read first: a row that is not to be sent now would cost a claim, and a write that takes the claim back.
        if not carried.tokens:
            outcome = steps.load(self._sender, email_id, carried)
            if not isinstance(outcome, Send):
                return outcome
        return steps.send(self._sender, email_id, carried, ends_at)
