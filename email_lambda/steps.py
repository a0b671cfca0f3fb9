"""The steps of a Batch: what is done about a message's body."""

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
    """The email that a raw message names is judged, claimed, sent and recorded."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.longest = sender.longest

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


class RecordCallback:
    """A callback goes into its email's history and, by rank, into the row."""

    longest = 1.0  # a few writes; one that is cut off is made again

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def __call__(self, body: str, carried: Carried, ends_at: float) -> Outcome:
        return steps.record_callback(self._tracking, body, carried)
