"""A proxy in front of an AWS endpoint that breaks requests as networks and AWS do.

    python -m tests.support.fault_proxy --upstream http://127.0.0.1:4566 --seed 7 --rates '{"lost_request": 0.1}'

If the seed and the rates are the same, the n-th request of an action has the same fate in every run, whatever else
happens. The proxy prints its own URL. `GET /_fault/on` and `/_fault/off` switch the faults on and off, and
`/_fault/counts` returns how often each happened. `--journal FILE` writes a line of JSON for each request with a fault.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.dynamodb_requests import updates_in

# Faults of a whole request, which has at most one of them.
REQUEST_FAULTS = (
    "lost_request",  # the connection is closed, and the request is not carried out
    "lost_response",  # the request is carried out, and the connection is closed
    "reset",  # it is carried out, and the connection is reset in the middle of the answer
    "internal_error",
    "unavailable",
    "throttled",
    "hang",  # it is carried out at once and answered late, or carried out late, even if nobody waits any more
)
# Faults of an entry of a batch request. DynamoDB's entries are keys and statements.
ENTRY_REFUSED = "entry_refused"  # reported as failed or unprocessed, and not carried out
ENTRY_UNCONFIRMED = "entry_unconfirmed"  # reported as failed or unprocessed or not at all, but carried out
# A fault of the answer to a batch of statements, which has one part for each statement.
REORDERED = "reordered"
# A fault of a received message.
DUPLICATE = "duplicate"  # the next receive returns it again
# A fault of the email service's claims. Every request that makes the claim is carried out, at once or late, but never
# answered.
UNANSWERED_CLAIM = "unanswered_claim"

RATES = frozenset((*REQUEST_FAULTS, ENTRY_REFUSED, ENTRY_UNCONFIRMED, REORDERED, DUPLICATE, UNANSWERED_CLAIM))

# By the prefix of X-Amz-Target: the error codes by which the service says "try again", from its API reference.
CODES = {
    "AmazonSQS": {
        "internal_error": (500, "InternalFailure"),
        "unavailable": (503, "ServiceUnavailable"),
        "throttled": (400, "RequestThrottled"),
    },
    "DynamoDB_20120810": {
        "internal_error": (500, "InternalServerError"),
        "unavailable": (503, "ServiceUnavailable"),
        "throttled": (400, "ProvisionedThroughputExceededException"),
    },
}

# What the answer to a batch of statements may say of a statement that was not carried out, and of one that was.
REFUSED_CODES = ("ThrottlingError", "TransactionConflict", "ProvisionedThroughputExceeded", "ConditionalCheckFailed")
UNCONFIRMED_CODES = ("InternalServerError", "ConditionalCheckFailed", "")  # "": the answer does not mention it

HANG_SECONDS = (0.5, 6.0)
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with a timeout of 0: socket(7)


@dataclass(frozen=True)
class Message:
    """An HTTP request or response with a Content-Length. Header names are in lower case."""

    first_line: str
    headers: dict[str, str]
    body: bytes

    def to_bytes(self) -> bytes:
        headers = self.headers | {"content-length": str(len(self.body))}
        lines = [self.first_line, *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + self.body

    def with_json(self, content: dict[str, Any]) -> Message:
        headers = {name: value for name, value in self.headers.items() if name != "x-amz-crc32"}
        return replace(self, headers=headers, body=json.dumps(content).encode())


def answer(status: int, content: dict[str, Any], **headers: str) -> Message:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    line = f"HTTP/1.1 {status} {'OK' if status == 200 else 'Fault'}"
    return Message(line, {"content-type": "application/x-amz-json-1.0"} | headers, json.dumps(content).encode())


async def read_message(reader: asyncio.StreamReader) -> Message:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first_line, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Message(first_line, headers, await reader.readexactly(int(headers.get("content-length", 0))))


class FaultProxy:
    def __init__(self, upstream: str, seed: int, rates: dict[str, float], journal: Path | None = None) -> None:
        if unknown := rates.keys() - RATES:
            raise ValueError(f"no such faults: {', '.join(sorted(unknown))}")
        self._upstream = urlsplit(upstream)
        self._seed = seed
        self._rates = rates
        self._journal = journal.open("a") if journal else None
        self._numbers: Counter[str] = Counter()  # how many requests each action has had
        self._claims: dict[str, int] = {}  # the number of each claim
        self._counts: Counter[str] = Counter()
        self._off = asyncio.Event()
        self._off.set()
        self._done = asyncio.Condition()
        self._under_way = 0
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        # Once the client is gone, nothing else refers to the task. It could be collected before it has forwarded all.
        self._tasks.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                request = await read_message(reader)
                path = request.first_line.split()[1]
                if path.startswith("/_fault/"):
                    writer.write((await self._control(path)).to_bytes())
                elif self._off.is_set() or "x-amz-target" not in request.headers:
                    writer.write((await self._forward(request)).to_bytes())
                else:
                    self._under_way += 1
                    try:
                        await self._serve_badly(request, writer)
                    finally:
                        self._under_way -= 1
                        async with self._done:
                            self._done.notify_all()
                await writer.drain()
        writer.close()
        self._tasks.discard(asyncio.current_task())

    async def _control(self, path: str) -> Message:
        if path.endswith("/on"):
            self._off.clear()
        elif path.endswith("/off"):
            self._off.set()
            async with self._done:  # late requests are carried out now, before the answer
                await self._done.wait_for(lambda: not self._under_way)
        return answer(200, dict(self._counts))

    async def _forward(self, request: Message) -> Message:
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        writer.write(replace(request, headers=request.headers | {"connection": "close"}).to_bytes())
        response = await read_message(reader)
        writer.close()
        return replace(response, headers={name: v for name, v in response.headers.items() if name != "connection"})

    async def _serve_badly(self, request: Message, writer: asyncio.StreamWriter) -> None:
        target = request.headers["x-amz-target"]
        for claim in _claims_in(request):
            number = self._claims.setdefault(claim, len(self._claims))
            dice = random.Random(f"{self._seed} claim {number}")
            if dice.random() < self._rates.get(UNANSWERED_CLAIM, 0):
                await self._leave_unanswered(request, writer, dice)
                return
        self._numbers[target] += 1
        dice = random.Random(f"{self._seed} {target} {self._numbers[target]}")
        fault = self._fate(dice)
        self._note(request, fault)
        if fault == "lost_request":
            writer.close()
            return
        if fault in CODES["AmazonSQS"]:
            service = target.split(".")[0]
            status, code = CODES[service][fault]
            party = "Sender" if status < 500 else "Receiver"
            error = {"__type": code, "message": f"{fault}, by the fault proxy"}
            writer.write(answer(status, error, x_amzn_query_error=f"{code};{party}").to_bytes())
            return
        late = fault == "hang" and dice.random() < 0.5
        if late:
            await self._hang(dice)
        response = await self._forward_entries(request, target.split(".")[1], dice)
        if fault == "hang" and not late:
            await self._hang(dice)
        content = response.to_bytes()
        if fault == "lost_response":
            writer.close()
        elif fault == "reset":
            writer.write(content[: len(content) // 2])
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            writer.transport.abort()
        else:
            writer.write(content)

    async def _leave_unanswered(self, request: Message, writer: asyncio.StreamWriter, dice: random.Random) -> None:
        self._note(request, UNANSWERED_CLAIM)
        writer.close()
        if dice.random() < 0.5:
            await self._hang(dice)
        await self._forward(request)

    def _note(self, request: Message, fault: str | None) -> None:
        self._counts.update(["requests", *([fault] if fault else [])])
        if fault and self._journal:
            line = {"target": request.headers["x-amz-target"], "fault": fault, "body": request.body.decode("latin-1")}
            print(json.dumps(line), file=self._journal, flush=True)

    def _fate(self, dice: random.Random) -> str | None:
        rates = [self._rates.get(fault, 0) for fault in REQUEST_FAULTS]
        return dice.choices([*REQUEST_FAULTS, None], [*rates, 1 - sum(rates)])[0]

    async def _hang(self, dice: random.Random) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._off.wait(), dice.uniform(*HANG_SECONDS))

    async def _forward_entries(self, request: Message, action: str, dice: random.Random) -> Message:
        """Forward the request, with faults of its entries or messages."""
        if action == "ReceiveMessage":
            response = await self._forward(request)
            await self._duplicate(request, response, dice)
            return response
        if action == "BatchGetItem":
            return await self._forward_keys(request, dice)
        if action == "BatchExecuteStatement":
            return await self._forward_statements(request, dice)
        if not action.endswith("Batch") or "Entries" not in (content := json.loads(request.body)):
            return await self._forward(request)
        faults = {entry["Id"]: self._entry_fault(dice) for entry in content["Entries"]}
        taken = [entry for entry in content["Entries"] if faults[entry["Id"]] != ENTRY_REFUSED]
        response = answer(200, {"Successful": [], "Failed": []})
        if taken:
            response = await self._forward(request.with_json(content | {"Entries": taken}))
        if " 200 " not in response.first_line or not any(faults.values()):
            return response
        outcome = json.loads(response.body)
        failed = [entry for entry in outcome.get("Failed", []) if not faults[entry["Id"]]]
        for entry, fault in faults.items():
            if fault:
                self._counts[fault] += 1
                failed.append({"Id": entry, "Code": "InternalError", "Message": fault, "SenderFault": False})
        confirmed = [entry for entry in outcome.get("Successful", []) if not faults[entry["Id"]]]
        return response.with_json({"Successful": confirmed, "Failed": failed})

    async def _forward_keys(self, request: Message, dice: random.Random) -> Message:
        response = await self._forward(request)
        if " 200 " not in response.first_line:
            return response
        content = json.loads(response.body)
        for table, rows in content["Responses"].items():
            faults = [self._entry_fault(dice) for _ in rows]
            self._counts.update(filter(None, faults))
            left = [{"EmailId": row["EmailId"]} for row, fault in zip(rows, faults, strict=True) if fault]
            rows[:] = [row for row, fault in zip(rows, faults, strict=True) if not fault]
            if left:
                content.setdefault("UnprocessedKeys", {})[table] = {"Keys": left}
        return response.with_json(content)

    async def _forward_statements(self, request: Message, dice: random.Random) -> Message:
        content = json.loads(request.body)
        faults = [self._entry_fault(dice) for _ in content["Statements"]]
        taken = [each for each, fault in zip(content["Statements"], faults, strict=True) if fault != ENTRY_REFUSED]
        response = answer(200, {"Responses": []})
        if taken:
            response = await self._forward(request.with_json({"Statements": taken}))
        if " 200 " not in response.first_line:
            return response
        self._counts.update(filter(None, faults))
        carried_out = iter(json.loads(response.body)["Responses"])
        answers = []
        for fault in faults:
            answered = {} if fault == ENTRY_REFUSED else next(carried_out)
            code = dice.choice(REFUSED_CODES if fault == ENTRY_REFUSED else UNCONFIRMED_CODES)
            if not fault:
                answers.append(answered)
            elif code:
                answers.append({"Error": {"Code": code, "Message": fault}})
        if len(answers) > 1 and dice.random() < self._rates.get(REORDERED, 0):
            self._counts[REORDERED] += 1
            dice.shuffle(answers)
        return response.with_json({"Responses": answers})

    def _entry_fault(self, dice: random.Random) -> str | None:
        rates = [self._rates.get(fault, 0) for fault in (ENTRY_REFUSED, ENTRY_UNCONFIRMED)]
        return dice.choices([ENTRY_REFUSED, ENTRY_UNCONFIRMED, None], [*rates, 1 - sum(rates)])[0]

    async def _duplicate(self, request: Message, response: Message, dice: random.Random) -> None:
        """Make some of the received messages visible again, so that the next receive returns them too."""
        for message in json.loads(response.body).get("Messages", []):
            if dice.random() < self._rates.get(DUPLICATE, 0):
                self._counts[DUPLICATE] += 1
                url, handle = json.loads(request.body)["QueueUrl"], message["ReceiptHandle"]
                content = {"QueueUrl": url, "ReceiptHandle": handle, "VisibilityTimeout": 0}
                headers = request.headers | {"x-amz-target": "AmazonSQS.ChangeMessageVisibility"}
                await self._forward(replace(request, headers=headers).with_json(content))


def _claims_in(request: Message) -> list[str]:
    """Return the ids of the claims that the request makes."""
    action = request.headers["x-amz-target"].rpartition(".")[2]
    return [update.claim_id for update in updates_in(action, request.body) if update.claim_id]


async def run(port: int, proxy: FaultProxy) -> None:
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201 (its parent process reads it)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rates", type=json.loads, required=True, help="JSON: how often each fault happens, 0 to 1")
    parser.add_argument("--journal", type=Path)
    options = parser.parse_args()
    asyncio.run(run(options.port, FaultProxy(options.upstream, options.seed, options.rates, options.journal)))


if __name__ == "__main__":
    main()
