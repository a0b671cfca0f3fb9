"""Makes calls share requests, which would otherwise depend on how threads meet."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emails.store import EmailStore

T = TypeVar("T")


def always_grouped(store: EmailStore) -> EmailStore:
    """Let the store send each usual read, claim and record as a group, even if it is the only one."""
    assert store._grouped
    store._grouped._reads.least = store._grouped._writes.least = 1
    return store


def together(store: EmailStore, calls: Sequence[Callable[[], T]]) -> list[T | Exception]:
    """Make the calls, each in its own thread, so that they go in one group. Return what they return or raise."""
    assert store._grouped
    groups, kind = store._grouped._groups, store._grouped._reads
    released, held = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert released.wait(60)

    def made(call: Callable[[], T]) -> T | Exception:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            return error

    with ThreadPoolExecutor(len(calls) + 1) as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr("emails.store.groups.PATIENCE_SECONDS", 60)
        first = threads.submit(groups.ask, replace(kind, is_off=False), "held", "", hold)
        assert held.wait(60)
        futures = []
        try:
            for number, call in enumerate(calls):
                futures.append(threads.submit(made, call))
                while len(groups._waiting) <= number and not futures[-1].done():
                    time.sleep(0.001)
        finally:
            released.set()
        first.result()
        return [future.result() for future in futures]
