"""Posts webhooks at a steady rate from a process of its own, and prints what became of them as JSON.

Its arguments are the port, the rate per second, and the seconds. It uses a few connections that stay open, as a
service does, and writes HTTP itself, because a client library would need more CPU than the program that is tested.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections import Counter

from tests.emails.webhooks.examples import POSTMARK
from tests.support.webhooks import LOGIN

CONNECTIONS = 64


def request(number: int) -> bytes:
    body = json.dumps({**POSTMARK[0].report, "MessageID": f"load-{number}"}).encode()
    login = base64.b64encode(LOGIN.encode()).decode()
    head = (
        "POST /webhooks/postmark HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Basic {login}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(port: int, rate: float, seconds: float) -> dict[str, object]:
    total = int(rate * seconds)
    numbers = iter(range(total))
    times: list[float] = []
    statuses: Counter[int] = Counter()
    began = time.perf_counter()

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            due = began + number / rate
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            writer.write(request(number))
            head = await reader.readuntil(b"\r\n\r\n")
            statuses[int(head.split()[1])] += 1
            times.append(time.perf_counter() - due)  # since it was due, so that waiting for a connection counts
        writer.close()

    await asyncio.gather(*(one_connection() for _ in range(CONNECTIONS)))
    took = time.perf_counter() - began
    times.sort()
    return {
        "statuses": dict(statuses),
        "rate": round(total / took),
        "p50_ms": round(times[len(times) // 2] * 1000, 1),
        "p95_ms": round(times[int(len(times) * 0.95)] * 1000, 1),
    }


if __name__ == "__main__":
    port, rate, seconds = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(load(int(port), float(rate), float(seconds)))))
