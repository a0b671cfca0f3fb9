from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError

from celery_sqs import poller as poller_module
from celery_sqs.poller import Pause, PausedQueues, Poller, Pollers
from celery_sqs.prefetch import Prefetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


Start = "Callable[[Queue], Poller]"


class Queue:
    """Returns messages as SQS does, up to the number asked for, and counts the receives."""

    def __init__(self, messages: int = 0) -> None:
        self.left = messages
        self.asked: list[int] = []
        self.waits: list[bool] = []
        self.delivered: list[Any] = []
        self.released: list[Any] = []
        self.errors: list[Exception] = []
        self.gate = threading.Event()
        self.gate.set()

    def receive(self, count: int, wait: bool) -> list[dict[str, Any]]:
        self.asked.append(count)
        self.waits.append(wait)
        self.gate.wait(60)
        if self.errors:
            raise self.errors.pop()
        count = min(count, self.left)
        self.left -= count
        if not count:
            threading.Event().wait(0.01)  # a long poll blocks, too
        return [{}] * count


@pytest.fixture
def prefetch() -> Prefetch:
    return Prefetch()


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Pause:
    """Return the process's pause, and end it after the test."""
    pause = Pause()
    monkeypatch.setattr(poller_module, "pause", pause)
    return pause


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> PausedQueues:
    """The queues that this test pauses. Their pollers look often whether they may go on."""
    paused = PausedQueues()
    monkeypatch.setattr(poller_module, "paused_queues", paused)
    monkeypatch.setattr(poller_module, "PAUSED_TICK_SECONDS", 0.01)
    return paused


@pytest.fixture
def start(prefetch: Prefetch) -> Iterator[Callable[[Queue], Poller]]:
    pollers = []

    def start(queue: Queue) -> Poller:
        poller = Poller("q", prefetch, queue.receive, queue.delivered.extend, queue.released.extend)
        pollers.append(poller)
        poller.start()
        return poller

    yield start
    for poller in pollers:
        poller.stop()


def test_a_full_prefetch_parks_the_poll_and_room_wakes_it(
    prefetch: Prefetch, start: Start, wait_until: Callable[..., None]
) -> None:
    prefetch.limit = 20
    queue = Queue(messages=100)
    start(queue)
    wait_until(lambda: len(queue.delivered) == 20)
    assert queue.asked == [10, 10]
    prefetch.free(9)
    assert queue.asked == [10, 10], "it asks for ten at once, not for nine"
    prefetch.free(1)
    wait_until(lambda: len(queue.delivered) == 30)
    assert queue.asked == [10, 10, 10]


def test_only_one_of_two_receives_at_once_waits_for_messages_to_come(
    prefetch: Prefetch, start: Start, wait_until: Callable[..., None]
) -> None:
    """If the second one also waited, it would reserve room that another queue may need."""
    prefetch.limit = 1000
    queue = Queue(messages=100)
    queue.gate.clear()
    poller = start(queue)
    poller._more.set()
    wait_until(lambda: len(queue.waits) == 2)
    assert sorted(queue.waits) == [False, True]
    queue.gate.set()


def test_a_limit_below_ten_is_asked_for_whole(
    prefetch: Prefetch, start: Start, wait_until: Callable[..., None]
) -> None:
    prefetch.limit = 4
    queue = Queue(messages=100)
    start(queue)
    wait_until(lambda: queue.asked == [4])
    prefetch.free(4)
    wait_until(lambda: queue.asked == [4, 4])


def test_a_queue_that_comes_later_is_not_starved_by_the_long_poll_of_the_first() -> None:
    prefetch, never = Prefetch(), threading.Event()
    prefetch.limit = 16
    assert prefetch.take(never) == 10
    prefetch.sharers = 2
    assert prefetch.take(never) == 6, "nothing is held but what the other poll may bring"
    prefetch.received(10, 0)
    assert prefetch.take(never) == 8
    prefetch.received(6, 1)
    prefetch.add()
    assert prefetch._wanted() == 0, "messages are held: it waits for a whole share"


def test_a_raised_limit_wakes_it(prefetch: Prefetch, start: Start, wait_until: Callable[..., None]) -> None:
    prefetch.limit = 10
    queue = Queue(messages=100)
    start(queue)
    wait_until(lambda: len(queue.delivered) == 10)
    prefetch.limit = 20
    wait_until(lambda: len(queue.delivered) == 20)


def test_what_a_receive_does_not_bring_leaves_room(
    prefetch: Prefetch, start: Start, wait_until: Callable[..., None]
) -> None:
    prefetch.limit = 10
    queue = Queue(messages=3)
    start(queue)
    wait_until(lambda: len(queue.delivered) == 3)
    prefetch.free(3)
    wait_until(lambda: len(queue.asked) > 1)


def test_what_comes_after_the_stop_is_released(
    prefetch: Prefetch, start: Start, wait_until: Callable[..., None]
) -> None:
    queue = Queue(messages=10)
    queue.gate.clear()
    poller = start(queue)
    wait_until(lambda: queue.asked)
    poller.stop()
    queue.gate.set()
    wait_until(lambda: len(queue.released) == 10)
    assert queue.delivered == []
    assert len(queue.asked) == 1


def test_an_exit_waits_for_an_open_poll_but_not_for_long(start: Start, wait_until: Callable[..., None]) -> None:
    queue = Queue(messages=10)
    queue.gate.clear()
    poller = start(queue)
    wait_until(lambda: queue.asked)
    poller.stop()
    pollers = Pollers()
    pollers.add(poller)
    pollers.let_stopped_give_back(0.1)
    assert queue.released == []
    threading.Timer(0.1, queue.gate.set).start()
    pollers.let_stopped_give_back(60)
    assert len(queue.released) == 10


def test_an_exit_does_not_wait_for_a_poll_of_a_queue_that_only_this_process_receives_from(
    prefetch: Prefetch, wait_until: Callable[..., None]
) -> None:
    queue = Queue()
    queue.gate.clear()
    accept, give_back = queue.delivered.extend, queue.released.extend
    poller = Poller("own", prefetch, queue.receive, accept, give_back, is_shared=False)
    poller.start()
    wait_until(lambda: queue.asked)
    poller.stop()
    pollers = Pollers()
    pollers.add(poller)
    began = time.monotonic()
    pollers.let_stopped_give_back(30)
    assert time.monotonic() - began < 20
    queue.gate.set()


def test_an_error_is_waited_out_and_polling_goes_on(
    prefetch: Prefetch, start: Start, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poller_module, "LAST_BACKOFF_SECONDS", 0.01)
    prefetch.limit = 10
    queue = Queue(messages=10)
    queue.errors = [EndpointConnectionError(endpoint_url="http://sqs")] * 3
    start(queue)
    wait_until(lambda: len(queue.delivered) == 10)


def test_a_paused_process_receives_nothing_until_the_pause_is_over(
    start: Start, pause: Pause, wait_until: Callable[..., None]
) -> None:
    began = time.monotonic()
    pause.begin(0.3)
    queues = [Queue(messages=10), Queue(messages=10)]
    pollers = [start(queue) for queue in queues]
    wait_until(lambda: all(poller.parked for poller in pollers), what="a probe sees that it rests")
    wait_until(lambda: all(len(queue.delivered) == 10 for queue in queues))
    assert time.monotonic() - began >= 0.3


def test_a_pause_that_is_begun_again_lasts_as_long_as_its_longest(
    start: Start, pause: Pause, wait_until: Callable[..., None]
) -> None:
    began = time.monotonic()
    pause.begin(0.1)
    queue = Queue(messages=10)
    poller = start(queue)
    wait_until(lambda: poller.parked)
    pause.begin(0.4)
    pause.begin(0)
    wait_until(lambda: queue.delivered)
    assert time.monotonic() - began >= 0.4


def test_a_pause_holds_a_poll_that_waited_for_room_when_it_began(
    prefetch: Prefetch, start: Start, pause: Pause, wait_until: Callable[..., None]
) -> None:
    prefetch.limit = 10
    queue = Queue(messages=100)
    start(queue)
    wait_until(lambda: len(queue.delivered) == 10 and len(prefetch._waiting) == 2)
    began = time.monotonic()
    pause.begin(0.3)
    prefetch.free(10)
    wait_until(lambda: len(queue.delivered) == 20)
    assert time.monotonic() - began >= 0.3


def test_a_poll_whose_threads_all_wait_for_room_is_parked(
    prefetch: Prefetch, start: Start, wait_until: Callable[..., None]
) -> None:
    prefetch.limit = 10
    queue = Queue(messages=100)
    poller = start(queue)
    for delivered in (10, 20, 30):  # the threads take turns
        wait_until(lambda: len(queue.delivered) == delivered and len(prefetch._waiting) == 2)  # noqa: B023 (the loop does not continue before it is called)
        assert poller.parked
        prefetch.free(10)


def test_a_stop_ends_a_pause_at_once(start: Start, pause: Pause, wait_until: Callable[..., None]) -> None:
    pause.begin(3600)
    queue = Queue(messages=10)
    poller = start(queue)
    wait_until(lambda: poller.parked)
    poller.stop()
    poller.join(time.monotonic() + 20)
    assert not any(thread.is_alive() for thread in poller._threads)
    assert queue.asked == []


def test_room_goes_to_the_highest_priority_first_and_within_one_to_who_waited_longest(
    prefetch: Prefetch, wait_until: Callable[..., None]
) -> None:
    prefetch.limit = 10
    served: list[str] = []
    prefetch.take(never := threading.Event())

    def wait(name: str, priority: int) -> None:
        prefetch.take(never, priority)
        served.append(name)
        prefetch.free(10)

    waiters = [
        threading.Thread(target=wait, args=waiter) for waiter in (("bulk", -1), ("first", 1), ("second", 1), ("raw", 0))
    ]
    for number, waiter in enumerate(waiters, start=1):
        waiter.start()
        wait_until(lambda number=number: len(prefetch._waiting) == number)
    prefetch.free(10)
    for waiter in waiters:
        waiter.join(60)
    assert served == ["first", "second", "raw", "bulk"]


def test_a_paused_queue_is_not_received_from_while_others_are(
    prefetch: Prefetch, paused: PausedQueues, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    paused.set(["raw"])
    raw, callbacks = Queue(messages=10), Queue(messages=10)
    pollers = [
        Poller(name, prefetch, queue.receive, queue.delivered.extend, queue.released.extend, priority)
        for priority, (name, queue) in enumerate((("raw", raw), ("callbacks", callbacks)))
    ]
    take, took_room = prefetch.take, set[int]()

    def note(stopped: threading.Event, priority: int) -> int:
        took_room.add(priority)
        return take(stopped, priority)

    monkeypatch.setattr(prefetch, "take", note)
    for poller in pollers:
        poller.start()
    wait_until(lambda: len(callbacks.delivered) == 10)
    assert (raw.asked, pollers[0].parked) == ([], True)
    assert took_room == {1}, "a paused poller takes no room that another one needs"
    paused.set([])
    wait_until(lambda: len(raw.delivered) == 10)
    for poller in pollers:
        poller.stop()


def test_what_a_long_poll_brings_after_the_pause_began_is_given_back(
    prefetch: Prefetch, start: Start, paused: PausedQueues, wait_until: Callable[..., None]
) -> None:
    prefetch.limit = 10
    queue = Queue(messages=10)
    queue.gate.clear()
    start(queue)
    wait_until(lambda: queue.asked)
    paused.set(["q"])
    queue.gate.set()
    wait_until(lambda: len(queue.released) == 10)
    assert queue.delivered == []
    queue.left = 10
    paused.set([])
    wait_until(lambda: len(queue.delivered) == 10, what="what was given back leaves room")


def test_a_poll_that_waited_for_room_when_its_queue_was_paused_receives_nothing_and_keeps_no_room(
    prefetch: Prefetch, start: Start, paused: PausedQueues, wait_until: Callable[..., None]
) -> None:
    prefetch.limit = 10
    queue = Queue(messages=20)
    poller = start(queue)
    wait_until(lambda: len(queue.delivered) == 10 and len(prefetch._waiting) == 2)
    paused.set(["q"])
    prefetch.free(10)
    wait_until(lambda: not prefetch._waiting and not prefetch._held)
    assert (queue.asked, poller.parked) == ([10], True)
    paused.set([])
    wait_until(lambda: len(queue.delivered) == 20)


def test_a_poller_of_a_paused_queue_stops_at_once(
    start: Start, paused: PausedQueues, wait_until: Callable[..., None]
) -> None:
    paused.set(["q"])
    queue = Queue(messages=10)
    poller = start(queue)
    wait_until(lambda: poller.parked)
    poller.stop()
    poller.join(time.monotonic() + 20)
    assert not any(thread.is_alive() for thread in poller._threads)
    assert queue.asked == []


def test_what_is_paused_replaces_what_was_paused_before() -> None:
    paused = PausedQueues()
    paused.set(["a", "b"])
    paused.set(["b", "c"])
    assert [name in paused for name in "abc"] == [False, True, True]
