"""What a worker does before it consumes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.start import prefetch_enough


@pytest.mark.parametrize(
    ("concurrency", "multiplier", "prefetch"),
    [(1, 2, 30), (4, 2, 32), (15, 2, 30), (16, 2, 32), (2, 50, 100)],
)
def test_thirty_messages_at_least_are_prefetched(concurrency: int, multiplier: int, prefetch: int) -> None:
    worker = SimpleNamespace(prefetch_multiplier=multiplier, concurrency=concurrency)
    prefetch_enough(worker)
    assert worker.prefetch_multiplier * concurrency == prefetch
