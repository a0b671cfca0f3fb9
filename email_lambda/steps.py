"""The steps of a Batch, which say what to do about a message's body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emails import steps
from emails.decide import Send
from emails.outcome import DeadLetter

if TYPE_CHECKING:
    from emails.outcome import Outcome
    from emails.sender import Sender
    from emails.steps import Carried
    from emails.tracking import Tracking


class SendEmail:
    """Reads the row of the email that a raw message names, claims the email, sends it and records the result."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.longest = sender.longest

    def __call__(self, body: str, carried: Carried, ends_at: float) -> Outcome:
        email_id = steps.read(body)
        if isinstance(email_id, DeadLetter):
            return email_id
        # The row is read first. If the email should not be sent now, this saves a claim and the write that undoes it.
        if not carried.tokens:
            outcome = steps.load(self._sender, email_id, carried)
            if not isinstance(outcome, Send):
                return outcome
        return steps.send(self._sender, email_id, carried, ends_at)


class RecordCallback:
    """Records a callback in its email's history, and in the row if its status ranks higher."""

    longest = 1.0  # seconds for a few writes; a write that is cut off is made again

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def __call__(self, body: str, carried: Carried, ends_at: float) -> Outcome:
        return steps.record_callback(self._tracking, body, carried)
