"""`celery -A tests.support.chaos_worker worker`: the service's own app, which also keeps a journal.

The journal has these lines:

    <pid> holds <id>                        the process starts to work on the email
    <pid> reaches <id>                      the process is about to call the provider
    <pid> unanswered <id>                   the provider did not answer in time
    <pid> unanswered-claim <id> <claim>     DynamoDB did not answer the claim
    <pid> leaves <id> <seconds> <outcome>   the process has ended its work on the email

With CHAOS_SECOND_PORT, the provider `stub` is an SMTP server at this port, to which emails fail over from `smtp`.
With CHAOS_NO_HAND_OFF=1 each task's message goes through SQS. With CHAOS_NO_LEASE=1 every claim succeeds. With
CHAOS_NO_TOKENS=1 no claim is taken over.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from emails import sender
from emails.claim_tokens import claim_id
from emails.providers.contract import UnknownResultError
from emails.providers.smtp import SmtpProvider
from emails.providers.smtp_settings import SmtpSettings
from emails.status import EmailStatus
from emails.store import ClaimUnanswered, rows
from tasks import app

if TYPE_CHECKING:
    from emails.claim_tokens import Tokens
    from emails.email import Email
    from emails.outcome import Done, RetryLater
    from emails.providers.contract import Provider, Receipt
    from settings import Settings

__all__ = ["app"]

NO_TOKENS = "CHAOS_NO_TOKENS" in os.environ
WORKER = os.getpid()  # the children of the prefork pool inherit it
JOURNAL = os.open(os.environ["CHAOS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(*words: object) -> None:
    os.write(JOURNAL, f"{WORKER} {' '.join(map(str, words))}\n".encode())


class JournaledSender(sender.Sender):
    def send(self, email_id: str, ends_at: float = math.inf, tokens: Tokens = ()) -> RetryLater | Done:
        note("holds", email_id)
        started, outcome = time.monotonic(), "raised"
        try:
            result = super().send(email_id, ends_at, () if NO_TOKENS else tokens)
            outcome = type(result).__name__
        except Exception as error:
            if isinstance(error, ClaimUnanswered):
                note("unanswered-claim", email_id, claim_id(error.tokens[-1]))
            outcome = type(error).__name__
            raise
        finally:
            note("leaves", email_id, time.monotonic() - started, outcome)
        return result


class JournaledProvider(SmtpProvider):
    def send(self, email: Email) -> Receipt:
        note("reaches", email.id)
        try:
            return super().send(email)
        except UnknownResultError as error:
            if "no answer in time" in str(error):
                note("unanswered", email.id)
            raise


def load_providers(settings: Settings) -> dict[str, Provider]:
    providers: dict[str, Provider] = {"smtp": JournaledProvider.from_settings(settings)}
    if port := os.environ.get("CHAOS_SECOND_PORT"):
        server = SmtpSettings.read().model_copy(update={"smtp_port": int(port)})
        providers["stub"] = second = JournaledProvider(settings, server)
        second.name = "stub"
    return providers


sender.load_providers = load_providers
sender.Sender = JournaledSender  # type: ignore[misc]  # replaced before tasks.pipeline imports it

if os.environ.get("CHAOS_NO_HAND_OFF"):
    app.conf.broker_transport_options["hand_off"] = False
if os.environ.get("CHAOS_NO_LEASE"):
    rows.CLAIM = replace(rows.CLAIM, sources=frozenset(EmailStatus))
