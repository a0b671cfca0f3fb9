"""The repr of an object that contains an email does not show the email, because reprs end up in logs."""

from __future__ import annotations

from typing import Any

from emails.dead_letters import ReceivedDeadLetter
from emails.decide import Send
from emails.email import Email
from emails.providers.stub import StubProvider, StubSettings
from emails.sender import Sender
from emails.store import Claim, Conflict
from settings import Settings


def test_no_repr_of_what_holds_emails_shows_one(row: dict[str, Any]) -> None:
    secret = f"{row['Sender']} {row['Subject']}"
    holders = [
        Send(Email.from_row(row)),
        Claim(row["EmailId"], "claim-1", 0.0, row),
        Conflict(row),
        ReceivedDeadLetter("queue", {"MessageId": "message-1", "Body": secret}),
        StubProvider(failures={row["Sender"]: "permanent"}),
        Sender(None, {}, Settings()),  # type: ignore[arg-type]  # the test does not use it
        StubSettings(stub_failures={row["Sender"]: "permanent"}),
    ]
    for holder in holders:
        assert row["Sender"] not in f"{holder!r} {holder}"
        assert row["Subject"] not in f"{holder!r} {holder}"
