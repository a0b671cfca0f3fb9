"""`celery -A tests.support.outage_worker worker`: the service's own app, with a provider that has an outage.

As long as the file OUTAGE exists, the provider refuses emails whose ids begin with `refused-`, accepts those that begin
with `lost-` but gives no answer, and gives none for those that begin with `silent-` and does not accept them either. It
appends the id of every email that it accepts to the file ACCEPTED.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from emails import sender
from emails.providers.contract import PermanentError, Receipt, UnknownResultError
from tasks import app

if TYPE_CHECKING:
    from emails.email import Email

__all__ = ["app"]

OUTAGE = Path(os.environ["OUTAGE"])
ACCEPTED = os.open(os.environ["ACCEPTED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Provider:
    name = "stub"
    longest_send = 1
    max_message_bytes = None

    def max_send_rate(self) -> float | None:
        return None

    def send(self, email: Email) -> Receipt:
        kind = email.id.partition("-")[0] if OUTAGE.exists() else ""
        if kind == "refused":
            raise PermanentError("over quota")
        if kind != "silent":
            os.write(ACCEPTED, f"{email.id}\n".encode())
        if kind in {"lost", "silent"}:
            raise UnknownResultError("no answer")
        return Receipt(self.name, "", "accepted")


sender.load_providers = lambda _: {"stub": Provider()}
