"""`celery -A tests.slow.chaos_worker worker`: the service's own app, sending to the provider double.

It keeps a journal of who held which email for how long: `<pid> holds <id>`, then `<pid> leaves <id> <seconds>
<outcome>`, and `<pid> unanswered <id>` where the provider did not answer in time. With CHAOS_NO_LEASE=1 every claim
succeeds.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from emails import delivery
from emails.mime import message_id, to_mime
from emails.model import EmailStatus
from emails.providers.contract import NoTellingError, PermanentError, Receipt, TemporaryError
from emails.store import rows
from tasks import app

if TYPE_CHECKING:
    from emails.delivery import Finished, Later
    from emails.model import Email
    from emails.providers.contract import Provider
    from settings import Settings

__all__ = ["app"]

PROVIDER = urlsplit(os.environ["CHAOS_PROVIDER"])
JOURNAL = os.open(os.environ["CHAOS_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(*words: object) -> None:
    os.write(JOURNAL, f"{os.getpid()} {' '.join(map(str, words))}\n".encode())


class HttpProvider:
    """One request a send. What left and was not answered as the double documents it tells nothing."""

    name = "stub"
    max_message_bytes = None

    def __init__(self, timeout: float) -> None:
        self._timeout = self.longest_send = timeout

    def send(self, email: Email) -> Receipt:
        connection = HTTPConnection(PROVIDER.hostname or "", PROVIDER.port, timeout=self._timeout)
        try:
            connection.connect()
        except OSError:
            raise TemporaryError("the provider refuses connections") from None
        try:
            connection.request("POST", "/", bytes(to_mime(email)), {"X-Amz-Target": "Provider.Send"})
            answer = connection.getresponse()
            answer.read()
        except TimeoutError:
            note("unanswered", email.id)
            raise NoTellingError("no answer in time") from None
        except (OSError, HTTPException) as error:
            raise NoTellingError(f"no answer: {type(error).__name__}") from None
        finally:
            connection.close()
        if answer.status == 200:
            return Receipt(self.name, message_id(email))
        if answer.status == 400:
            raise PermanentError("the provider refuses the email")
        if answer.status == 429 or answer.headers.get("Not-Accepted"):
            raise TemporaryError(f"the provider answers {answer.status}", float(answer.headers.get("Retry-After", 0)))
        raise NoTellingError(f"the provider answers {answer.status}")


def load_providers(settings: Settings) -> dict[str, Provider]:
    return {HttpProvider.name: HttpProvider(settings.provider_timeout)}


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


delivery.load_providers = load_providers  # type: ignore[assignment]  # the product has the stub alone
delivery.Delivery = JournaledDelivery  # type: ignore[misc]  # before tasks.pipeline imports it

if os.environ.get("CHAOS_NO_LEASE"):
    rows.CLAIM = replace(rows.CLAIM, sources=frozenset(EmailStatus))
