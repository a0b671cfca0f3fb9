"""A provider of email: accepts, refuses or fails an email's n-th request as its seed says, and keeps a file of it.

A line of the file is what it did and the email's id. `python -m tests.slow.provider_double --seed 7 --file FILE` prints
its URL, takes POST requests whose body is the message, and answers

    200                    accepted
    400                    refused for good
    429, 503 not-accepted  refused for now, with a Retry-After
    500                    nobody knows: the email was accepted
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
from collections import Counter
from contextlib import suppress
from email import message_from_bytes
from pathlib import Path
from typing import TYPE_CHECKING

from tests.slow.fault_proxy import answer, read_message

if TYPE_CHECKING:
    from tests.slow.fault_proxy import Message

# What it does, which is what it writes to its file.
ACCEPTED = "accepted"
REFUSED = "refused"  # for good
DEFERRED = "deferred"
FAILED = "failed"  # accepted, and answered with an error
LATE = "late"  # accepted, and answered when nobody waits any more

REFUSED_EMAILS = 0.03
FATES = {ACCEPTED: 0.82, DEFERRED: 0.12, FAILED: 0.03, LATE: 0.03}  # of a request

LONGEST_WORK_SECONDS = 0.3  # before it accepts, and again before it answers: workers are killed meanwhile
LATE_SECONDS = 2


def id_in(message: bytes) -> str:
    encoded = message_from_bytes(message)["X-Email-Id"]
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()


class Provider:
    def __init__(self, seed: int, file: Path) -> None:
        self._seed = seed
        self._file = file.open("a")
        self._requests: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a connection's one request."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            request = await read_message(reader)
            writer.write((await self._answer(request)).to_bytes())
            await writer.drain()
        writer.close()

    async def _answer(self, request: Message) -> Message:
        email_id = id_in(request.body)
        self._requests[email_id] += 1
        dice = random.Random(f"{self._seed} {email_id} {self._requests[email_id]}")
        await asyncio.sleep(dice.uniform(0, LONGEST_WORK_SECONDS))
        fate = self._fate(email_id, dice)
        if fate in (FAILED, LATE):
            self._note(ACCEPTED, email_id)
        self._note(fate, email_id)
        if fate == REFUSED:
            return answer(400, {})
        if fate == DEFERRED:
            return dice.choice((answer(429, {}, retry_after="1"), answer(503, {}, not_accepted="1", retry_after="1")))
        await asyncio.sleep(LATE_SECONDS if fate == LATE else dice.uniform(0, LONGEST_WORK_SECONDS))
        return answer(500 if fate == FAILED else 200, {})

    def _fate(self, email_id: str, dice: random.Random) -> str:
        if random.Random(f"{self._seed} {email_id}").random() < REFUSED_EMAILS:
            return REFUSED
        return dice.choices(list(FATES), list(FATES.values()))[0]

    def _note(self, fate: str, email_id: str) -> None:
        print(fate, email_id, file=self._file, flush=True)


async def run(provider: Provider) -> None:
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201 (whoever starts it reads it)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(run(Provider(options.seed, options.file)))


if __name__ == "__main__":
    main()
