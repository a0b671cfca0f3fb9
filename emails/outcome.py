"""How a step ends. The text of an outcome is its line in the log."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from emails.status import EmailStatus

if TYPE_CHECKING:
    from celery_sqs.sqs.dead_letters import Reason
    from emails.claim_tokens import Tokens

# The longest that SQS can delay a message (SQS Developer Guide, "Delay queues"). A longer wait takes several copies.
# Each of them reads the row again, because somebody may have changed it.
LONGEST_DELAY_SECONDS = 900

# The levels at which statuses that need a person are logged, so that an alert by level finds them.
LEVELS = {EmailStatus.FAILED: logging.WARNING, EmailStatus.UNKNOWN: logging.ERROR}


@dataclass(frozen=True)
class Done:
    """There is nothing more to do for this message."""

    status: EmailStatus | None = None  # the status that this step gave the row; None if it gave none
    detail: str = ""
    provider: str = ""  # the provider that was asked to send

    @property
    def level(self) -> int:
        """The level of its line in the log."""
        return LEVELS.get(self.status, logging.INFO) if self.status else logging.INFO

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.status, self.detail)))


@dataclass(frozen=True)
class RetryLater:
    """The step has to be tried again in `seconds`."""

    seconds: float
    reason: str
    affects_all: bool = False  # DynamoDB is unavailable, so other messages would end in the same way now
    missing_since: float | None = None  # when the row was first found to be missing, in epoch seconds
    tokens: Tokens = ()  # of claims that got no answer, which the next try may take over

    level = logging.INFO

    @property
    def delay(self) -> float:
        """The delay of the message's next copy, in seconds."""
        return min(max(self.seconds, 0), LONGEST_DELAY_SECONDS)

    def __str__(self) -> str:
        return f"next try {_when(self.seconds)}: {self.reason}"


def _when(seconds: float) -> str:
    """Return a long wait as a date, because nobody reads `in 86400.0 s` as tomorrow."""
    if seconds > LONGEST_DELAY_SECONDS:
        try:
            return f"at {datetime.fromtimestamp(time.time() + seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
        except (OverflowError, ValueError, OSError):  # a row can hold any number, and years end at 9999
            pass
    return f"in {seconds:.1f} s"


@dataclass(frozen=True)
class DeadLetter:
    """The message goes to the dead-letter queue, with this reason."""

    reason: Reason

    def __str__(self) -> str:
        return f"dead letter: {self.reason.code}: {self.reason.detail}"


Outcome = Done | RetryLater | DeadLetter
