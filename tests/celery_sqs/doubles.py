"""A queue that gives scripted answers, including those that the emulator never gives, and a worker without a pool."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery_sqs import admission, receiving
from celery_sqs.admission import Admission
from celery_sqs.consumer_loop import ConsumerLoop
from celery_sqs.prefetch import Prefetch
from celery_sqs.receiving import Receiver
from celery_sqs.sqs.queue import Queue

if TYPE_CHECKING:
    import pytest

    from celery_sqs.held_messages import HeldMessages


class ScriptedQueue(Queue):
    """Records each batch. `answers`, if not empty, has the next batch's error codes, or an error to raise."""

    def __init__(self, name: str = "q", dead_letters: Queue | None = None) -> None:
        super().__init__(name, f"http://sqs/{name}", client=lambda: None)
        self.sent: list[list[dict[str, Any]]] = []
        self.deleted: list[list[dict[str, Any]]] = []
        self.changed: list[list[dict[str, Any]]] = []
        self.answers: list[list[str] | Exception] = []
        self.gate = threading.Event()
        self.gate.set()
        self._dlq = dead_letters

    def send_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        return self._answer(self.sent, batch)

    def delete_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        return self._answer(self.deleted, batch)

    def change_visibility_batch(self, batch: list[dict[str, Any]]) -> list[str]:
        return self._answer(self.changed, batch)

    def dead_letters(self) -> Queue | None:
        return self._dlq

    def _answer(self, record: list[list[dict[str, Any]]], batch: list[dict[str, Any]]) -> list[str]:
        self.gate.wait(60)
        record.append(batch)
        answer = self.answers.pop(0) if self.answers else [""] * len(batch)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, list)
        return answer


class Worker:
    """The parts of a worker that the receiver of its channel needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, messages: HeldMessages, *queues: ScriptedQueue) -> None:
        for module in (admission, receiving):
            monkeypatch.setattr(module, "held_messages", lambda: messages)
        self.prefetch = Prefetch()
        self.prefetch.limit = 2
        self.delivered: list[dict[str, Any]] = []
        self._unacked: set[str] = set()
        self.messages = messages
        self.queues = queues
        connection = SimpleNamespace(_deliver=self._make_request, connection_errors=())
        channel: Any = SimpleNamespace(
            qos=SimpleNamespace(prefetch=self.prefetch, ack=self._ack),
            connection=connection,
            wait_time_seconds=0,
            visibility_timeout=60,
            predefined_queues={"backoff": {"backoff_policy": {}}},
            transport_options={"raw_queues": {"raw": "note"}},
            _noack_queues=(),
            _decode_python_message_body=lambda body: body,
            _prepare_json_payload=lambda body: {"body": None, "headers": {"body": body}, "properties": {}},
            _envelope_payload=self._envelope,
        )
        self.loop = ConsumerLoop(None)
        self.loop.serves_worker = True
        self.receiver = Receiver(channel, self.loop, Admission(channel, None))
        for queue in queues:
            self.receiver.consume(queue.name, queue, -1 if queue.name == "low" else 0)

    def deliver(self) -> None:
        self.loop.inbox.get(timeout=0)()

    def _make_request(self, payload: dict[str, Any], _: str) -> None:
        tag = payload["properties"]["delivery_tag"]
        held = self.messages.get(tag)
        assert held is not None
        self._unacked.add(tag)
        held.wait_for_start()
        self.delivered.append(payload)

    def _ack(self, tag: str) -> None:
        """Free the message's place, if the consumer has the message (see `QoS.ack`)."""
        if tag in self._unacked:
            self._unacked.remove(tag)
            self.prefetch.free(1)

    @staticmethod
    def _envelope(payload: dict[str, Any], _: str, message: dict[str, Any], __: str) -> dict[str, Any]:
        payload["properties"] |= {"delivery_info": {"sqs_message": message}, "delivery_tag": message["ReceiptHandle"]}
        return payload
