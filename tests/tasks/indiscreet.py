"""`celery -A tests.tasks.indiscreet worker`: the service's app, with code that raises errors that quote the email."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emails import sender
from emails.mime import to_mime
from emails.providers.smtp import SmtpProvider
from emails.providers.stub import StubProvider
from tasks import app

if TYPE_CHECKING:
    from emails.decide import Send
    from emails.email import Email
    from emails.outcome import Done, RetryLater
    from emails.providers.contract import Receipt

__all__ = ["app"]


class Indiscreet(StubProvider):
    def send(self, email: Email) -> Receipt:
        if email.id.endswith("-provider-crash"):
            raise RuntimeError(to_mime(email), *email.recipients)
        return super().send(email)


class Crashing(sender.Sender):
    def load(self, email_id: str) -> Send | RetryLater | Done:
        if email_id.endswith("-load-crash"):
            raise KeyError(self._get(email_id)) from ValueError(self._get(email_id))
        return super().load(email_id)


sender.load_providers = lambda settings: {
    "stub": Indiscreet.from_settings(settings),
    "smtp": SmtpProvider.from_settings(settings),
}
sender.Sender = Crashing  # type: ignore[misc]  # this must happen before tasks.pipeline imports it
