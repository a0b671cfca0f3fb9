"""A queue that gives scripted answers, including those that the emulator never gives."""

from __future__ import annotations

import threading
from typing import Any

from celery_sqs.sqs.queue import Queue


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
