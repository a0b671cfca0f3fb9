"""SQS for the stand-in: the actions that the bench needs, with counts of requests and of what SQS would bill."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from typing import TYPE_CHECKING

from bench.errors import ApiError
from bench.queues import Queue, entries_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.queues import Request, Result, Waiting

BILLED_BYTES = 64 * 1024  # Amazon SQS pricing: "Every 64 KB chunk of a payload is billed as 1 request"
MAX_PAYLOAD_BYTES = 1_048_576

ACTIONS: dict[str, Callable[[Queue, Request], Result | Waiting]] = {
    "ChangeMessageVisibility": Queue.change_message_visibility,
    "ChangeMessageVisibilityBatch": lambda queue, request: _each(queue.change_message_visibility, request),
    "DeleteMessage": Queue.delete_message,
    "DeleteMessageBatch": lambda queue, request: _each(queue.delete_message, request),
    "GetQueueAttributes": Queue.get_queue_attributes,
    "ListQueueTags": lambda queue, _: {"Tags": queue.tags},
    "PurgeQueue": Queue.purge_queue,
    "ReceiveMessage": Queue.receive_message,
    "SendMessage": Queue.send_message,
    "SendMessageBatch": Queue.send_message_batch,
    "SetQueueAttributes": Queue.set_queue_attributes,
    "TagQueue": Queue.tag_queue,
}


class Queues:
    """All queues, with counts of each action's requests and of the requests that SQS would bill for them."""

    def __init__(self, url: str) -> None:
        self.requests: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self._url = url
        self._queues: dict[str, Queue] = {}

    def answer(self, action: str, request: Request) -> Result | Waiting:
        self.requests[action] += 1
        self.units[action] += 1
        if action == "CreateQueue":
            return self._create_queue(request)
        if action == "ListQueues":
            prefix = request.get("QueueNamePrefix", "")
            return {"QueueUrls": [queue.url for name, queue in self._queues.items() if name.startswith(prefix)]}
        if action == "GetQueueUrl":
            return {"QueueUrl": self.queue(request["QueueName"]).url}
        queue = self.queue(request["QueueUrl"])
        if action == "DeleteQueue":
            self._queues.pop(_name(queue.url)).close()
            return {}
        if action not in ACTIONS:
            raise ApiError("UnsupportedOperation", f"the stand-in does not support {action}")
        if action in ("SendMessage", "SendMessageBatch"):
            self._bill(action, request.get("Entries", [request]))
        result = ACTIONS[action](queue, request)
        if isinstance(result, asyncio.Future):
            result.add_done_callback(self._bill_received)
        elif action == "ReceiveMessage":
            self._bill(action, result.get("Messages", []))
        return result

    def queue(self, url: str) -> Queue:
        """Return the queue with this URL or name."""
        if _name(url) not in self._queues:
            raise ApiError("QueueDoesNotExist", "The specified queue does not exist.")
        return self._queues[_name(url)]

    def _create_queue(self, request: Request) -> Result:
        name = request["QueueName"]
        if name not in self._queues:
            self._queues[name] = Queue(name, self._url, request.get("Attributes", {}), request.get("tags", {}))
        return {"QueueUrl": self._queues[name].url}

    def _bill(self, action: str, messages: list[Request]) -> None:
        size = sum(map(_size, messages))
        if size > MAX_PAYLOAD_BYTES and action != "ReceiveMessage":
            raise ApiError("BatchRequestTooLong", f"{size} bytes are more than {MAX_PAYLOAD_BYTES}")
        self.units[action] += max(0, -(-size // BILLED_BYTES) - 1)  # the first unit is the request itself

    def _bill_received(self, waiting: Waiting) -> None:
        if not waiting.cancelled():
            self._bill("ReceiveMessage", waiting.result().get("Messages", []))


def _each(change: Callable[[Request], Result], request: Request) -> Result:
    result: Result = {"Successful": [], "Failed": []}
    for entry in entries_of(request):
        try:
            change(entry)
        except ApiError as error:
            result["Failed"].append({"Id": entry["Id"], "Code": error.code, "SenderFault": True})
        else:
            result["Successful"].append({"Id": entry["Id"]})
    return result


def _size(message: Request) -> int:
    """Return the payload in bytes: the body, and each attribute's name, type and value."""
    size = len((message.get("MessageBody") or message.get("Body") or "").encode())
    for name, value in message.get("MessageAttributes", {}).items():
        content = value.get("StringValue", "").encode() or base64.b64decode(value.get("BinaryValue", ""))
        size += len(name.encode()) + len(value["DataType"].encode()) + len(content)
    return size


def _name(url: str) -> str:
    return url.rpartition("/")[2]
