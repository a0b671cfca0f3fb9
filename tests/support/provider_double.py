"""An SMTP server whose seed decides whether an email's n-th transaction is accepted, is refused, or fails.

`python -m tests.support.provider_double --seed 7 --file FILE` prints its port and writes to the file what it does. Each
line has a word below and the email's id, or the step at which it broke off before it knew the email.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
from collections import Counter
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.smtp_server import SmtpServer, drop, hang

if TYPE_CHECKING:
    from tests.support.smtp_server import Fate

# What it can do, in the words that it writes to its file.
ACCEPTED = "accepted"
REFUSED = "refused"  # permanently
DEFERRED = "deferred"
FAILED = "failed"  # accepted, but the connection is closed instead of an answer
LOST = "lost"  # the same, but not accepted
LATE = "late"  # accepted, but answered when the client has given up
BROKEN = "broken"  # the connection is closed before the last dot
HUNG = "hung"  # it stops answering before the last dot

REFUSED_EMAILS = 0.03
FATES = {ACCEPTED: 0.79, DEFERRED: 0.12, FAILED: 0.03, LOST: 0.03, LATE: 0.03}  # how likely each is for a transaction
TROUBLED = {ACCEPTED: 0.35, DEFERRED: 0.5, FAILED: 0.05, LOST: 0.05, LATE: 0.05}  # the same with --troubled
BROKEN_STEPS = 0.01
HUNG_STEPS = {False: 0.005, True: 0.02}  # by whether it is troubled
DEFERRALS = ("451 4.3.0 later", "452 4.3.1 no room", "421 4.3.2 shutting down")

LONGEST_WORK_SECONDS = 0.3  # before it accepts, and again before it answers, so that workers are killed meanwhile
LATE_SECONDS = 2


def id_in(message: bytes) -> str:
    encoded = message_from_bytes(message)["X-Email-Id"]
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()


class Provider(SmtpServer):
    def __init__(self, seed: int, file: Path, *, troubled: bool) -> None:
        super().__init__()
        self._seed = seed
        # Two servers with the same dice would always do the same to an email.
        self._dice = f"{seed} troubled" if troubled else f"{seed}"
        self._fates = TROUBLED if troubled else FATES
        self._hung_steps = HUNG_STEPS[troubled]
        self._file = file.open("a")
        self._transactions: Counter[str] = Counter()
        self._working: set[asyncio.Task[str]] = set()

    def fate(self, step: str) -> Fate | None:
        chance = random.Random(f"{self._dice} {step} {self.seen[step]}").random()
        if step == "QUIT" or chance >= BROKEN_STEPS + self._hung_steps:
            return None
        self._note(BROKEN if chance < BROKEN_STEPS else HUNG, step)
        return drop if chance < BROKEN_STEPS else hang

    async def handle_DATA(self, conversation: Any, session: Any, envelope: Any) -> str:  # noqa: N802 (aiosmtpd's)
        # If the client is gone after it has sent the last dot, the email is still processed.
        work = asyncio.create_task(self._work(envelope.original_content))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        answer = await asyncio.shield(work)
        if not answer:
            await drop(conversation)
        return answer

    async def _work(self, message: bytes) -> str:
        """Process the email and return the answer, or "" if there is none."""
        email_id = id_in(message)
        self._transactions[email_id] += 1
        dice = random.Random(f"{self._dice} {email_id} {self._transactions[email_id]}")
        await asyncio.sleep(dice.uniform(0, LONGEST_WORK_SECONDS))
        fate = self._fate_of(email_id, dice)
        if fate in (FAILED, LATE):
            self._note(ACCEPTED, email_id)
        self._note(fate, email_id)
        if fate == REFUSED:
            return "554 5.7.1 no"
        if fate == DEFERRED:
            return dice.choice(DEFERRALS)
        await asyncio.sleep(LATE_SECONDS if fate == LATE else dice.uniform(0, LONGEST_WORK_SECONDS))
        return "" if fate in (FAILED, LOST) else "250 2.0.0 Ok"

    def _fate_of(self, email_id: str, dice: random.Random) -> str:
        # Whether an email is refused is not the server's choice, so that it does not depend on which server is asked.
        if random.Random(f"{self._seed} {email_id}").random() < REFUSED_EMAILS:
            return REFUSED
        return dice.choices(list(self._fates), list(self._fates.values()))[0]

    def _note(self, fate: str, of: str) -> None:
        print(fate, of, file=self._file, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--troubled", action="store_true", help="defer half of the emails, and lose more answers")
    options = parser.parse_args()
    provider = Provider(options.seed, options.file, troubled=options.troubled)
    asyncio.run(provider.serve(lambda: print(provider.port, flush=True)))  # noqa: T201 (its parent process reads it)


if __name__ == "__main__":
    main()
