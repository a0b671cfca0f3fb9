"""The promises that a chaos run must keep, and the judge that checks them.

The judge reads the rows, the queues, the provider's file, and which workers were killed while they held which emails.
It never reads a log.
"""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emails.dead_letters import MAX_RECEIVES_REASON, ReceivedDeadLetter
from emails.decide import ABANDONED
from emails.status import NEEDS_PERSON, EmailStatus
from tests.support.provider_double import ACCEPTED, FAILED, LATE, LOST, REFUSED

if TYPE_CHECKING:
    from emails.store import Row

STOPPED_AT_ITS_START = -signal.SIGTERM  # before it handles signals

CLAIM_LEASE = 3
MAX_ATTEMPTS = 5

FINAL = frozenset({EmailStatus.SENT, EmailStatus.FAILED, EmailStatus.UNKNOWN})

# The promises.
ENDED = "every email is Sent, Failed or Unknown"
ONCE = "no email was accepted twice, unless the operator resent it"
ACCEPTED_IS_SENT = "what was accepted is Sent or Unknown"
SENT_IS_ACCEPTED = "what is Sent was accepted, or an operator said so"
FAILED_IS_REFUSED = "what Failed was refused permanently or used up its attempts"
UNKNOWN_IS_EXPLAINED = "each Unknown may have reached the provider: a crash or a lost answer is behind it"
NOTHING_LEFT = "no message is left"
DEAD_LETTER_IS_EXPLAINED = "each dead letter is explained"
UNUSABLE_IS_DEAD_LETTER = "what nobody can use is a dead letter"
LISTED = "what is Failed or Unknown is in the index, and nothing else"
STOPPED = "a worker that is asked to stop ends what it holds, and stops"
NEVER_STALLED = "no worker stalls because a caller does not wait"

# The reasons why an email may be Unknown.
CRASH = "its worker was killed"
NO_ANSWER = "the provider's answer was lost"
RECORD_UNANSWERED = "DynamoDB's answers to its record were lost"
TOO_SLOW = "the answers took longer than the lease"
MACHINE_SLOW = "the machine was too slow for the time-outs"


@dataclass
class Holds:
    """What the workers' journal says: which process worked on which email, and how that ended."""

    open: Counter[tuple[int, str]] = field(default_factory=Counter)  # by process and email: starts without an end
    outlasted: set[str] = field(default_factory=set)  # emails held for longer than a lease
    raised: set[str] = field(default_factory=set)  # emails whose work ended with an error from DynamoDB
    unanswered: set[str] = field(default_factory=set)  # emails for which the provider did not answer in time
    reached: set[str] = field(default_factory=set)  # emails that a worker gave to the provider, as far as it knows
    unanswered_claims: dict[str, int] = field(default_factory=dict)  # by claim: the process that sent nothing

    @classmethod
    def read(cls, journal: str) -> Holds:
        holds = cls()
        for line in journal.splitlines():
            pid, verb, email_id, *rest = line.split()
            if verb == "unanswered":
                holds.unanswered.add(email_id)
                continue
            if verb == "reaches":
                holds.reached.add(email_id)
                continue
            if verb == "unanswered-claim":
                holds.unanswered_claims[rest[0]] = int(pid)
                continue
            holds.open[int(pid), email_id] += 1 if verb == "holds" else -1
            if rest and float(rest[0]) >= CLAIM_LEASE:
                holds.outlasted.add(email_id)
            if rest and rest[1] == "StoreUnavailable":
                holds.raised.add(email_id)
        return holds


@dataclass
class Story:
    """What happened in a run, as far as the judge needs it."""

    rows: dict[str, Row] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)  # the emails in the index
    seen: dict[str, Row] = field(default_factory=dict)  # the rows before the operator's last actions
    provider: dict[str, Counter[str]] = field(default_factory=dict)  # what the provider did, by email or by step
    store_faults: Counter[str] = field(default_factory=Counter)  # failed writes, by email
    killed: set[int] = field(default_factory=set)  # workers killed by SIGKILL
    holds: Holds = field(default_factory=Holds)
    resent: Counter[str] = field(default_factory=Counter)  # emails that the operator resent
    marked_sent: set[str] = field(default_factory=set)  # emails that the operator marked as sent
    left: dict[str, tuple[int, ...]] = field(default_factory=dict)  # by queue: visible, in flight, delayed
    letters: list[ReceivedDeadLetter] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)  # a text in each unusable message, and why it is unusable
    exit_codes: dict[int, int | None] = field(default_factory=dict)  # by pid, of workers that were asked to stop
    stalls: list[str] = field(default_factory=list)  # what the liveness probe would report


def judge(story: Story) -> dict[str, list[str]]:
    """Return each promise with everything that breaks it."""
    status = {email_id: row["EmailStatus"] for email_id, row in story.rows.items()}
    accepted = Counter({email_id: did[ACCEPTED] for email_id, did in story.provider.items()})
    letters = [(letter, _why_dead(letter, story)) for letter in story.letters]
    explained = {text for _, text in letters if text}
    return {
        ENDED: [f"{email_id} is {status[email_id]}" for email_id in status if status[email_id] not in FINAL],
        ONCE: [
            f"{email_id} was accepted {count} times, resent {story.resent[email_id]}"
            for email_id, count in accepted.items()
            if count > 1 + story.resent[email_id]
        ],
        ACCEPTED_IS_SENT: [
            f"{email_id} is {status.get(email_id)}"
            for email_id in +accepted
            if status.get(email_id) not in (EmailStatus.SENT, EmailStatus.UNKNOWN)
        ],
        SENT_IS_ACCEPTED: [
            email_id
            for email_id in status
            if status[email_id] == EmailStatus.SENT and not accepted[email_id] and email_id not in story.marked_sent
        ],
        FAILED_IS_REFUSED: [
            email_id
            for email_id, row in story.rows.items()
            if status[email_id] == EmailStatus.FAILED
            and not story.provider.get(email_id, {}).get(REFUSED)
            and row.get("Attempts", 0) < MAX_ATTEMPTS
        ],
        UNKNOWN_IS_EXPLAINED: [
            f"{row['EmailId']}: {row['FailureReason']}" for row, why in why_unknown(story) if not why
        ],
        NOTHING_LEFT: [f"{queue}: {count}" for queue, count in story.left.items() if any(count)],
        DEAD_LETTER_IS_EXPLAINED: [
            f"{letter.queue}: {letter.reason}: {letter.detail}" for letter, text in letters if not text
        ],
        UNUSABLE_IS_DEAD_LETTER: [text for text in story.unusable if text not in explained],
        LISTED: [
            f"{email_id} is {status.get(email_id)}"
            for email_id in story.listed ^ {email_id for email_id in status if status[email_id] in NEEDS_PERSON}
        ],
        STOPPED: [
            f"{pid} ended with {code}"
            for pid, code in story.exit_codes.items()
            if code != 0 and (code != STOPPED_AT_ITS_START or any(pid == holder for holder, _ in story.holds.open))
        ],
        NEVER_STALLED: story.stalls,
    }


def why_unknown(story: Story) -> list[tuple[Row, str]]:
    """Return each row that is or was Unknown, with the explanation, or with "" if there is none."""
    rows = [*story.seen.values(), *(row for email_id, row in story.rows.items() if row != story.seen.get(email_id))]
    return [(row, _why(row, story)) for row in rows if row["EmailStatus"] == EmailStatus.UNKNOWN]


def _why(row: Row, story: Story) -> str:
    return _why_abandoned(row, story) if row["FailureReason"] == ABANDONED else _why_lost(row["EmailId"], story)


def _why_lost(email_id: str, story: Story) -> str:
    did = story.provider.get(email_id, Counter())
    if did[FAILED] or did[LOST] or did[LATE]:
        return NO_ANSWER
    return MACHINE_SLOW if email_id in story.holds.unanswered else ""


def _why_abandoned(row: Row, story: Story) -> str:
    """Return why the claim was abandoned, or "" if nothing explains it.

    If DynamoDB did not answer the claim, the only excuse is that its worker was killed, so that its token was lost.
    """
    email_id, holds = row["EmailId"], story.holds
    worker = holds.unanswered_claims.get(row.get("ClaimedBy", ""))
    if worker is not None:
        return CRASH if worker in story.killed else ""
    if any(count and pid in story.killed for (pid, held), count in holds.open.items() if held == email_id):
        return CRASH
    if email_id in holds.raised & holds.reached and story.store_faults[email_id]:
        return RECORD_UNANSWERED
    if email_id in holds.outlasted:
        return TOO_SLOW if story.store_faults[email_id] else MACHINE_SLOW
    return ""


def _why_dead(letter: ReceivedDeadLetter, story: Story) -> str:
    """Return the text of the unusable message in the dead letter, or another reason for it, or "" if there is none."""
    for text, reason in story.unusable.items():
        if text in letter.body and letter.reason == reason:
            return text
    return "workers were killed" if letter.reason == MAX_RECEIVES_REASON and story.killed else ""
