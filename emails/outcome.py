"""What a step ends in. The text of an outcome is its line in the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_sqs.sqs.dead_letters import Reason
    from emails.claim_tokens import Tokens
    from emails.status import EmailStatus

# The most that SQS delays a message (SQS Developer Guide, "Delay queues"). A longer wait takes several copies, and each
# looks at the row again: somebody may have changed it.
LONGEST_DELAY_SECONDS = 900


@dataclass(frozen=True)
class Done:
    """Nothing more is to be done for this message."""

    status: EmailStatus | None = None  # what this step made of the row; None if it left the row's status alone
    detail: str = ""
    provider: str = ""  # the one that was asked to send

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.status, self.detail)))


@dataclass(frozen=True)
class RetryLater:
    """The step is to be taken again in so many seconds."""

    seconds: float
    reason: str
    affects_all: bool = False  # DynamoDB is unavailable, so other messages would end in the same way now
    missing_since: float | None = None  # when the row was first missed, in epoch seconds
    tokens: Tokens = ()  # of claims that got no answer, for the next try to take over

    @property
    def delay(self) -> float:
        """The delay of the message's next copy."""
        return min(max(self.seconds, 0), LONGEST_DELAY_SECONDS)

    def __str__(self) -> str:
        return f"waits {self.seconds:.1f} s: {self.reason}"


@dataclass(frozen=True)
class DeadLetter:
    """The message goes to the dead-letter queue, with this reason."""

    reason: Reason

    def __str__(self) -> str:
        return f"dead letter: {self.reason.code}: {self.reason.detail}"


Outcome = Done | RetryLater | DeadLetter
