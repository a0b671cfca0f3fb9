"""Calls that come while a request is in flight go together in the next one, and none of them harms another."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from emails.store import StoreUnavailable
from emails.store.groups import Groups, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from emails.store.groups import Item


class Requests:
    """What was sent. A group gets what `answer` returns for it. A call alone gets itself."""

    def __init__(self, most: int = 100) -> None:
        self.sent: list[list[str]] = []
        self.answer: Callable[[list[str]], Mapping[str, Item]] = lambda keys: {key: {"of": key} for key in keys}
        self.groups = Groups()
        self.kinds = {name: Kind(self._send, lambda: most) for name in ("read", "write")}
        self._threads = ThreadPoolExecutor(32)

    def _send(self, asked: list[str]) -> Mapping[str, Item]:
        self.sent.append(asked)
        return self.answer(asked)

    def ask(self, key: str, until: threading.Event | None = None, kind: str = "read") -> Item | None:
        def alone() -> Item | None:
            self.sent.append([key])
            if until:
                assert until.wait(10)
            return {"alone": key}

        return self.groups.ask(self.kinds[kind], key, key, alone)

    def start(self, *arguments: Any) -> Future[Item | None]:
        return self._threads.submit(self.ask, *arguments)

    def waiting(self) -> list[str]:
        return [call.key for call in self.groups._waiting]


@pytest.fixture
def requests() -> Requests:
    return Requests()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no call lose its patience on a slow machine."""
    monkeypatch.setattr("emails.store.groups.PATIENCE_SECONDS", 30)


class Held:
    """A request that is in flight until it is released, while others come one after the other."""

    def __init__(self, requests: Requests, wait_until: Callable[..., None]) -> None:
        self._requests, self._wait_until = requests, wait_until
        self._released = threading.Event()
        self._first = requests.start("first", self._released)
        wait_until(lambda: requests.sent == [["first"]])

    def start(self, *keys: str, kind: str = "read") -> list[Future[Item | None]]:
        started = []
        for key in keys:
            before = len(self._requests.waiting())
            started.append(self._requests.start(key, None, kind))
            self._wait_until(lambda before=before: len(self._requests.waiting()) > before)
        return started

    def release(self) -> None:
        self._released.set()
        assert self._first.result(10) == {"alone": "first"}


@pytest.fixture
def held(requests: Requests, wait_until: Callable[..., None]) -> Iterator[Held]:
    held = Held(requests, wait_until)
    yield held
    held.release()


def test_a_call_that_finds_no_other_goes_at_once_and_alone(requests: Requests) -> None:
    assert [requests.ask(key) for key in "abc"] == [{"alone": key} for key in "abc"]
    assert requests.sent == [["a"], ["b"], ["c"]]


def test_calls_that_come_while_a_request_is_in_flight_go_together_in_the_next(requests: Requests, held: Held) -> None:
    started = held.start("a", "b", "c")
    held.release()
    assert [call.result(10) for call in started] == [{"of": "a"}, {"of": "b"}, {"of": "c"}]
    assert requests.sent == [["first"], ["a", "b", "c"]]


def test_a_group_has_no_key_twice_and_not_more_than_the_most(wait_until: Callable[..., None]) -> None:
    requests = Requests(most=2)
    held = Held(requests, wait_until)
    started = held.start("a", "a", "b", "c", "d")
    held.release()
    for call in started:
        assert call.result(10)
    assert requests.sent == [["first"], ["a", "b"], ["a", "c"], ["d"]]


def test_kinds_do_not_mix_and_whoever_has_waited_longest_goes_next(requests: Requests, held: Held) -> None:
    started = [*held.start("a", kind="write"), *held.start("a", "b"), *held.start("c", kind="write")]
    held.release()
    for call in started:
        assert call.result(10)
    assert requests.sent == [["first"], ["a", "c"], ["a", "b"]]


def test_a_call_that_its_group_does_not_answer_goes_alone(requests: Requests, held: Held) -> None:
    requests.answer = lambda keys: {key: {"of": key} for key in keys if key in "ac"}
    started = held.start("a", "b", "c", "d")
    held.release()
    assert [call.result(10) for call in started] == [{"of": "a"}, {"alone": "b"}, {"of": "c"}, {"alone": "d"}]
    assert requests.sent[:2] == [["first"], ["a", "b", "c", "d"]]


def test_a_store_that_is_unavailable_is_so_for_the_whole_group_and_for_nobody_else(
    requests: Requests, held: Held
) -> None:
    def fail(_: list[str]) -> Mapping[str, Item]:
        raise StoreUnavailable("throttled")

    requests.answer = fail
    started = held.start("a", "b")
    held.release()
    for call in started:
        with pytest.raises(StoreUnavailable, match="throttled"):
            call.result(10)
    assert requests.ask("c") == {"alone": "c"}


def test_if_the_sender_of_a_group_is_stopped_the_others_go_alone(requests: Requests, held: Held) -> None:
    class Stopped(BaseException):
        pass

    def stop(_: list[str]) -> Mapping[str, Item]:
        raise Stopped

    requests.answer = stop
    sender, *others = held.start("a", "b", "c")
    held.release()
    with pytest.raises(Stopped):
        sender.result(10)
    assert [call.result(10) for call in others] == [{"alone": "b"}, {"alone": "c"}]
    assert requests.ask("d") == {"alone": "d"}


def test_a_call_that_fails_alone_lets_the_others_go_on(requests: Requests) -> None:
    def fail() -> Item | None:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        requests.groups.ask(requests.kinds["read"], "a", "a", fail)
    assert requests.ask("b") == {"alone": "b"}


def test_calls_do_not_wait_for_a_request_that_hangs(
    requests: Requests, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emails.store.groups.PATIENCE_SECONDS", 0.05)
    assert [requests.start(key).result(10) for key in "ab"] == [{"alone": "a"}, {"alone": "b"}]
    assert requests.waiting() == []


def test_when_groups_are_turned_off_those_that_wait_go_alone(requests: Requests, held: Held) -> None:
    started = held.start("a", "b", "c")
    requests.kinds["read"].is_off = True
    held.release()
    assert [call.result(10) for call in started] == [{"alone": "a"}, {"alone": "b"}, {"alone": "c"}]
    assert requests.ask("d") == {"alone": "d"}


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import gevent
from gevent.event import Event
from emails.store import groups as module
from emails.store.groups import Groups, Kind

module.PATIENCE_SECONDS = 30

def kill(victim, in_flight):
    \"""Kill a task of four while the first or the second request is in flight. Return what was sent.\"""
    sent, done, answered = [], [], [Event(), *[Event()] * 9]

    def request(keys):
        sent.append(keys)
        assert answered[len(sent) - 1].wait(10)
        return {key: {"of": key} for key in keys}

    groups, kind = Groups(), Kind(request, lambda: 100)

    def ask(key):
        done.append(groups.ask(kind, key, key, lambda: request([key])[key]))

    tasks = [gevent.spawn(ask, key) for key in "abcd"]
    gevent.idle()
    assert len(groups._waiting) == 3
    if in_flight == 2:
        answered[0].set()
        while len(sent) < 2:
            gevent.idle()
    tasks[victim].kill()
    for event in answered:
        event.set()
    gevent.joinall(tasks, timeout=10, raise_error=True)
    assert {answer["of"] for answer in done} == set("abcd") - {"abcd"[victim]}, done
    assert groups.ask(kind, "e", "e", lambda: {"of": "e"}) == {"of": "e"}
    return sent

assert kill(0, 1) == [["a"], ["b", "c", "d"]], "it was alone in flight"
assert kill(1, 1) == [["a"], ["c", "d"]], "it waited, and would have sent the group"
assert kill(2, 1) == [["a"], ["b", "d"]], "it waited"
assert kill(1, 2) == [["a"], ["b", "c", "d"], ["c"], ["d"]], "it was sending the group"
assert kill(2, 2) == [["a"], ["b", "c", "d"]], "it was in the group"
"""


def test_with_gevent_a_task_that_is_killed_holds_up_no_other() -> None:
    """Greenlets need a process of their own, in which gevent has patched the locks."""
    subprocess.run([sys.executable, "-c", GREENLETS], check=True, timeout=60)


def test_the_rows_of_a_group_are_freed_as_soon_as_nobody_uses_them(
    requests: Requests, held: Held, wait_until: Callable[..., None]
) -> None:
    class Row(dict[str, Any]):
        """An Item that can be referenced weakly."""

    rows: list[weakref.ref[Row]] = []

    def answer(keys: list[str]) -> dict[str, Item]:
        answers = {key: Row(of=key) for key in keys}
        rows.extend(map(weakref.ref, answers.values()))
        return dict(answers)

    requests.answer = answer
    gc.disable()  # a reference cycle would keep them, with the emails' bodies, until a collection
    try:
        started = held.start("a", "b", "c")
        held.release()
        assert [call.result(10) for call in started] == [{"of": "a"}, {"of": "b"}, {"of": "c"}]
        started.clear()
        wait_until(lambda: [row() for row in rows] == [None] * 3)
    finally:
        gc.enable()
