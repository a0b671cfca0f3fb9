"""Lets threads share requests: what they ask for while one request is in flight goes together in the next one.

Nobody waits for a group to fill. If no request is in flight, a call goes at once and alone, as if there were no groups.
No thread of its own sends the groups: the first caller of each group does. With two requests in flight, groups are
smaller, and the bench's emails cost more CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from emails.store.items import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Item = dict[str, Any]  # as in the API: {"EmailId": {"S": "order-1"}}
T = TypeVar("T")

# A request that hangs must not hold up the calls that are not in it. After this time they go alone.
PATIENCE_SECONDS = 1.0


@dataclass
class Kind(Generic[T]):
    """A kind of request that calls may share.

    `send` sends several calls in one request. It returns the answers by key, and leaves out every call that has to go
    alone. It may raise StoreUnavailable, which is then the answer to each call of the group. `most` returns how many
    calls may go together.
    """

    send: Callable[[list[T]], Mapping[str, Item]]
    most: Callable[[], int]
    least: int = 2  # the fewest calls that go together; with 1, tests make a single caller use groups
    is_off: bool = False


class _Call(Generic[T]):
    """A call that waits: for its answer, or for its turn to send the next group."""

    __slots__ = ("answer", "asked", "failure", "group", "key", "kind", "woken")

    def __init__(self, kind: Kind[T], key: str, asked: T) -> None:
        self.kind = kind
        self.key = key
        self.asked = asked
        self.group: list[_Call[Any]] = []  # the group that this call has to send
        self.answer: Item | None = None
        self.failure: StoreUnavailable | None = None
        self.woken = Lock()
        self.woken.acquire()


class Groups:
    """The calls of all threads of a process. One request is in flight at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._in_flight = False
        self._waiting: list[_Call[Any]] = []

    def ask(self, kind: Kind[T], key: str, asked: T, alone: Callable[[], Item | None]) -> Item | None:
        """Return the answer. `alone` sends a request for this call only.

        A group has calls of one kind, and never two with the same key. If the group cannot answer one of its calls,
        that one goes alone, and the others neither fail nor wait longer.
        """
        if kind.is_off:
            return alone()
        call = _Call(kind, key, asked)
        with self._lock:
            self._waiting.append(call)
            if not self._in_flight:
                self._next_group()
        try:
            is_answered = self._wait(call)
        except BaseException:  # a pool may end a task at any time, for example gevent's at its time limit
            self._give_up(call)
            raise
        if group := call.group:
            call.group = []  # it contains this call, and a cycle would keep all rows until a garbage collection
            if len(group) < kind.least:
                try:
                    return alone()
                finally:
                    self._go_on()
            self._send_group(group)
        elif not is_answered:
            return alone()
        if call.failure:
            raise StoreUnavailable(str(call.failure)) from call.failure.__cause__
        return alone() if call.answer is None else call.answer

    def _wait(self, call: _Call[Any]) -> bool:
        """Wait until the call is answered or has to send a group. Return False if that takes too long."""
        if call.woken.acquire(timeout=PATIENCE_SECONDS):
            return True
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                return False
        return call.woken.acquire()  # it is in the group that is in flight

    def _send_group(self, group: list[_Call[Any]]) -> None:
        answers: Mapping[str, Item] = {}
        failure: StoreUnavailable | None = None
        try:
            answers = group[0].kind.send([call.asked for call in group])
        except StoreUnavailable as error:
            failure = error
        finally:
            self._go_on()
            for call in group:
                call.answer, call.failure = answers.get(call.key), failure
                call.woken.release()

    def _go_on(self) -> None:
        """Let the next group go, now that no request is in flight."""
        with self._lock:
            self._next_group()

    def _next_group(self) -> None:
        """Make the next group of the calls that wait, and let its first call send it. The lock is held."""
        self._in_flight = bool(self._waiting)
        if not self._in_flight:
            return
        first = self._waiting[0]
        group: dict[str, _Call[Any]] = {}
        left: list[_Call[Any]] = []
        most = 1 if first.kind.is_off else first.kind.most()
        for call in self._waiting:
            if call.kind is first.kind and call.key not in group and len(group) < most:
                group[call.key] = call
            else:
                left.append(call)
        self._waiting = left
        first.group = list(group.values())
        first.woken.release()

    def _give_up(self, call: _Call[Any]) -> None:
        """Forget a call whose caller was stopped while it waited. If it had to send a group, the next call does."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
            elif call.group:
                self._waiting = [*call.group[1:], *self._waiting]
                self._next_group()
