"""SQS standard queues in memory, for the stand-in. A receive costs the same, however deep the queue is."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

from bench.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable

ACCOUNT = "000000000000"
MAX_ENTRIES = 10
MAX_WAIT_SECONDS = 20
DEFAULTS = {
    "DelaySeconds": "0",
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "VisibilityTimeout": "30",
}

_message_numbers = count()  # UUIDs would take a tenth of a batch's time; these ids are as long as SQS's

Request = dict[str, Any]
Result = dict[str, Any]
Waiting = asyncio.Future[Result]  # a long poll


@dataclass(slots=True, eq=False)
class Message:
    """A message. A receipt handle consists of its id and the number of a receive. Only the last handle is valid."""

    id: str
    body: str
    md5: str
    attributes: dict[str, Any]
    sent_at: int
    receives: int = 0
    first_received_at: int = 0
    hidden_until: float = 0

    def received(self, request: Request) -> Result:
        """Return the message as ReceiveMessage shows it."""
        system = {
            "ApproximateFirstReceiveTimestamp": str(self.first_received_at),
            "ApproximateReceiveCount": str(self.receives),
            "SenderId": ACCOUNT,
            "SentTimestamp": str(self.sent_at),
        }
        # AttributeNames is the old name of MessageSystemAttributeNames.
        names = request.get("MessageSystemAttributeNames") or request.get("AttributeNames") or ()
        members = {
            "MessageId": self.id,
            "ReceiptHandle": f"{self.id}.{self.receives}",
            "Body": self.body,
            "MD5OfBody": self.md5,
            "Attributes": _chosen(system, names),
            "MessageAttributes": _chosen(self.attributes, request.get("MessageAttributeNames", ())),
        }
        return {name: value for name, value in members.items() if value}


class Queue:
    """A queue. Each message is in `visible`, `in_flight` or `delayed` until it is deleted."""

    def __init__(self, name: str, url: str, attributes: dict[str, str], tags: dict[str, str]) -> None:
        self.url = f"{url}/{ACCOUNT}/{name}"
        self.attributes = {**DEFAULTS, **attributes, "QueueArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"}
        self.tags = tags
        # A plain dict is slow at finding its first key after many keys were popped.
        self.visible: OrderedDict[str, Message] = OrderedDict()
        self.in_flight: dict[str, Message] = {}
        self.delayed: dict[str, Message] = {}
        # If a message is deleted or hidden again, its old entry stays in this list.
        self._hidden: list[tuple[float, int, Message]] = []
        self._entry = count()
        self._waiting: deque[tuple[Waiting, Request]] = deque()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def depths(self) -> dict[str, int]:
        return {"visible": len(self.visible), "in_flight": len(self.in_flight), "delayed": len(self.delayed)}

    def get_queue_attributes(self, request: Request) -> Result:
        depths = {
            "ApproximateNumberOfMessages": str(len(self.visible)),
            "ApproximateNumberOfMessagesNotVisible": str(len(self.in_flight)),
            "ApproximateNumberOfMessagesDelayed": str(len(self.delayed)),
        }
        return {"Attributes": _chosen({**self.attributes, **depths}, request.get("AttributeNames", ()))}

    def set_queue_attributes(self, request: Request) -> Result:
        self.attributes |= request["Attributes"]
        return {}

    def tag_queue(self, request: Request) -> Result:
        self.tags |= request["Tags"]
        return {}

    def purge_queue(self, _: Request) -> Result:
        for place in (self.visible, self.in_flight, self.delayed):
            place.clear()
        return {}

    def send_message(self, request: Request) -> Result:
        (sent,) = self.send_message_batch({"Entries": [{"Id": "", **request}]})["Successful"]
        return dict(sent)

    def send_message_batch(self, request: Request) -> Result:
        sent = []
        for entry in entries_of(request):
            body = entry["MessageBody"]
            md5 = hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
            message = Message(f"{next(_message_numbers):036d}", body, md5, entry.get("MessageAttributes", {}), _now())
            self._hide(message, self.delayed, int(entry.get("DelaySeconds", self.attributes["DelaySeconds"])))
            sent.append({"Id": entry["Id"], "MessageId": message.id, "MD5OfMessageBody": md5})
        self._serve()
        return {"Successful": sent}

    def receive_message(self, request: Request) -> Result | Waiting:
        wait = int(request.get("WaitTimeSeconds", self.attributes["ReceiveMessageWaitTimeSeconds"]))
        if wait > MAX_WAIT_SECONDS or request.get("MaxNumberOfMessages", 1) > MAX_ENTRIES:
            raise ApiError("InvalidParameterValue", "WaitTimeSeconds or MaxNumberOfMessages is too large")
        if self.visible or not wait:
            return self._take(request)
        waiting: Waiting = self._loop.create_future()
        self._waiting.append((waiting, request))
        timer = self._loop.call_later(wait, _end, waiting)
        waiting.add_done_callback(lambda _: timer.cancel())
        return waiting

    def delete_message(self, request: Request) -> Result:
        """Delete the message. If the handle is not its last one, do nothing, as SQS may."""
        if message := self._find(request["ReceiptHandle"]):
            self.in_flight.pop(message.id, None)
            self.visible.pop(message.id, None)
        return {}

    def change_message_visibility(self, request: Request) -> Result:
        message = self._find(request["ReceiptHandle"])
        if not message or not self.in_flight.pop(message.id, None):
            raise ApiError("MessageNotInflight", "The message referred to is not in flight")
        self._hide(message, self.in_flight, request["VisibilityTimeout"])
        self._serve()
        return {}

    def close(self) -> None:
        """End all long polls, because the queue is deleted."""
        for waiting, _ in self._waiting:
            _end(waiting)

    def _take(self, request: Request) -> Result:
        seconds = int(request.get("VisibilityTimeout", self.attributes["VisibilityTimeout"]))
        taken = []
        for _ in range(min(request.get("MaxNumberOfMessages", 1), len(self.visible))):
            _, message = self.visible.popitem(last=False)
            message.receives += 1
            message.first_received_at = message.first_received_at or _now()
            self._hide(message, self.in_flight, seconds)
            taken.append(message.received(request))
        return {"Messages": taken} if taken else {}

    def _find(self, receipt_handle: str) -> Message | None:
        message_id, _, receives = receipt_handle.partition(".")
        message = self.in_flight.get(message_id) or self.visible.get(message_id)
        return message if message and str(message.receives) == receives else None

    def _hide(self, message: Message, place: dict[str, Message], seconds: int) -> None:
        """Keep the message in `place` for this many seconds. With 0 it becomes visible at once."""
        if not seconds:
            self.visible[message.id] = message
            return
        place[message.id] = message
        message.hidden_until = self._loop.time() + seconds
        heappush(self._hidden, (message.hidden_until, next(self._entry), message))
        self._set_timer()

    def _set_timer(self) -> None:
        due = self._hidden[0][0]
        if self._timer is None or due < self._timer.when():
            if self._timer:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._show)

    def _show(self) -> None:
        """Make every message visible that was hidden until now."""
        self._timer = None
        while self._hidden and self._hidden[0][0] <= self._loop.time():
            due, _, message = heappop(self._hidden)
            places = [place for place in (self.in_flight, self.delayed) if message.id in place]
            if places and message.hidden_until == due:
                self.visible[message.id] = places[0].pop(message.id)
        if self._hidden:
            self._set_timer()
        self._serve()

    def _serve(self) -> None:
        """Answer the waiting long polls, first come, first served."""
        while self.visible and self._waiting:
            waiting, request = self._waiting.popleft()
            if not waiting.done():  # it is done if its time was over or its connection was lost
                waiting.set_result(self._take(request))


def entries_of(request: Request) -> list[Request]:
    entries: list[Request] = request["Entries"]
    if not 0 < len(entries) <= MAX_ENTRIES:
        raise ApiError("TooManyEntriesInBatchRequest", f"{len(entries)} entries; 1 to {MAX_ENTRIES} are allowed")
    return entries


def _chosen(attributes: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return dict(attributes) if "All" in names else {name: attributes[name] for name in names if name in attributes}


def _now() -> int:
    return time.time_ns() // 1_000_000


def _end(waiting: Waiting) -> None:
    if not waiting.done():
        waiting.set_result({})
