"""`celery -A tests.tasks.indiscreet worker`: the service's own app, whose code raises errors that quote the email."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emails import delivery
from emails.mime import to_mime
from emails.providers.smtp import SmtpProvider
from emails.providers.stub import StubProvider
from tasks import app

if TYPE_CHECKING:
    from emails.delivery import Finished, Later, Ready
    from emails.email import Email
    from emails.providers.contract import Receipt

__all__ = ["app"]


class Indiscreet(StubProvider):
    def send(self, email: Email) -> Receipt:
        if email.id.endswith("-provider-crash"):
            raise RuntimeError(bytes(to_mime(email)), *email.recipients)
        return super().send(email)


class Crashing(delivery.Delivery):
    def load(self, email_id: str) -> Ready | Later | Finished:
        if email_id.endswith("-load-crash"):
            raise KeyError(self._get(email_id)) from ValueError(self._get(email_id))
        return super().load(email_id)


delivery.load_providers = lambda settings: {
    "stub": Indiscreet.from_settings(settings),
    "smtp": SmtpProvider.from_settings(settings),
}
delivery.Delivery = Crashing  # type: ignore[misc]  # before tasks.pipeline imports it
