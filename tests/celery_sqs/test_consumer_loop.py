from __future__ import annotations

import select
import threading
from typing import TYPE_CHECKING

import pytest

from celery_sqs.consumer_loop import Inbox

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


def is_readable(inbox: Inbox) -> bool:
    return bool(select.select([inbox], [], [], 0)[0])


def test_items_come_out_in_order(inbox: Inbox) -> None:
    for item in "abc":
        inbox.put(item)
    assert [inbox.get(0), inbox.get(0), inbox.get(0), inbox.get(0)] == ["a", "b", "c", None]


def test_an_event_loop_sees_that_something_is_in_it(inbox: Inbox) -> None:
    assert not is_readable(inbox)
    inbox.put("a")
    assert is_readable(inbox)
    inbox.drain_wakeups()
    assert not is_readable(inbox)
    inbox.wake()  # a reader that stops half-way does this
    assert is_readable(inbox)
    inbox.get()
    inbox.drain_wakeups()
    inbox.wake()
    assert not is_readable(inbox)


def test_a_waiting_thread_gets_an_item_as_it_comes(inbox: Inbox) -> None:
    got: list[object] = []
    thread = threading.Thread(target=lambda: got.append(inbox.get(60)))
    thread.start()
    inbox.put("a")
    thread.join(60)
    assert got == ["a"]


def test_more_wakeups_than_a_socket_holds_lose_nothing(inbox: Inbox) -> None:
    count = 100_000
    for number in range(count):
        inbox.put(number)
    assert is_readable(inbox)
    assert sum(1 for _ in iter(lambda: inbox.get(0), None)) == count


def test_closed_it_takes_what_nobody_reads(inbox: Inbox) -> None:
    inbox.close()
    inbox.put("a")


def test_an_event_loop_can_be_woken_with_nothing_in_it(inbox: Inbox) -> None:
    assert not is_readable(inbox)
    inbox.wake(always=True)
    assert is_readable(inbox)
    assert inbox.get(timeout=0) is None
