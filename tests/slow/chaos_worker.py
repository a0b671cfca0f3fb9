"""`celery -A tests.slow.chaos_worker worker`: the service's own app, which keeps a journal.

In it stands who held which email for how long: `<pid> holds <id>`, then `<pid> leaves <id> <seconds> <outcome>`, and
`<pid> unanswered <id>` where the provider did not answer in time. With CHAOS_NO_LEASE=1 every claim succeeds.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from emails import delivery
from emails.model import EmailStatus
from emails.providers.contract import NoTellingError
from emails.providers.smtp import SmtpProvider
from emails.store import rows
from tasks import app

if TYPE_CHECKING:
    from emails.delivery import Finished, Later
    from emails.model import Email
    from emails.providers.contract import Receipt

__all__ = ["app"]

JOURNAL = os.open(os.environ["CHAOS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(*words: object) -> None:
    os.write(JOURNAL, f"{os.getpid()} {' '.join(map(str, words))}\n".encode())


class JournaledDelivery(delivery.Delivery):
    def send(self, email_id: str) -> Later | Finished:
        note("holds", email_id)
        started, outcome = time.monotonic(), "raised"
        try:
            result = super().send(email_id)
            outcome = type(result).__name__
        except Exception as error:
            outcome = type(error).__name__
            raise
        finally:
            note("leaves", email_id, time.monotonic() - started, outcome)
        return result


class JournaledProvider(SmtpProvider):
    def send(self, email: Email) -> Receipt:
        try:
            return super().send(email)
        except NoTellingError as error:
            if "no answer in time" in str(error):
                note("unanswered", email.id)
            raise


delivery.load_providers = lambda settings: {"smtp": JournaledProvider.from_settings(settings)}
delivery.Delivery = JournaledDelivery  # type: ignore[misc]  # before tasks.pipeline imports it

if os.environ.get("CHAOS_NO_LEASE"):
    rows.CLAIM = replace(rows.CLAIM, sources=frozenset(EmailStatus))
