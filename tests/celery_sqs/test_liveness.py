from __future__ import annotations

from typing import Any

import pytest

from celery_sqs.liveness import what_is_wrong


def state(*, written: float = 100, received: float = 100, parked: bool = False) -> dict[str, Any]:
    return {"written_at": written, "queues": {"tasks": {"last_receive_at": received, "parked": parked}}}


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (state(), ""),
        (state(received=20, parked=True), ""),
        (state(received=20), "the last receive from tasks was 90 seconds ago"),
        (state(written=20, parked=True), "the worker wrote its liveness file 90 seconds ago"),
        ({"written_at": 100, "queues": {}}, "the worker does not consume any queue"),
        (state() | {"stalled": "its loop stands still"}, "stalled: its loop stands still"),
    ],
    ids=["receiving", "parked", "receives nothing", "dead", "consumes nothing", "stalled"],
)
def test_a_worker_is_alive_while_it_receives_or_holds_all_it_may(found: dict[str, Any], wrong: str) -> None:
    assert what_is_wrong(found, now=110, max_age=60) == wrong
