"""What requests tell the pools. test_transport.py and tests/celery_sqs/test_no_loss.py test the real pools."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.app.trace import build_tracer
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.base import BasePool
from celery.concurrency.gevent import TaskPool as GeventPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.concurrency.thread import TaskPool as ThreadPool
from celery.exceptions import TaskRevokedError
from celery.worker import state
from celery.worker.request import create_request_cls
from greenlet import GreenletExit
from kombu.message import Message

from celery_sqs.channel import Message as OurMessage
from celery_sqs.patches.pools import learn_pool
from celery_sqs.raw_queues import to_task_message
from celery_sqs.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_task_that_gevent_kills_is_lost_and_not_done() -> None:
    def killed() -> None:
        raise GreenletExit

    pool = GeventPool(limit=1)
    learn_pool(pool)
    failed, info, _ = pool._make_killable_target(killed)()
    assert failed
    assert isinstance(info.exception.exc, WorkerLostError)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_any_other_error_of_a_task_is_its_own(error: type[BaseException]) -> None:
    def broken() -> None:
        raise error

    pool = GeventPool(limit=1)
    learn_pool(pool)
    with pytest.raises(error):
        pool._make_killable_target(broken)()


def test_at_its_stop_prefork_waits_for_what_a_process_has_been_given_but_not_begun() -> None:
    given, not_given = (SimpleNamespace(_write_to=to, _accepted=False) for to in (object(), None))
    waited_for: list[Any] = []

    class Pool(AsynPool):
        def __init__(self) -> None:
            self._cache = {1: given, 2: not_given}

        def __del__(self) -> None:
            pass

    def flush() -> None:
        waited_for.extend(job for job in (given, not_given) if job._accepted)

    pool = SimpleNamespace(uses_semaphore=True, _pool=Pool(), flush=flush)
    learn_pool(pool)
    pool.flush()
    assert waited_for == [given]


@pytest.mark.parametrize("raw", [True, False])
def test_inspect_shows_a_tasks_arguments_but_nothing_of_a_raw_body(raw: bool) -> None:
    app = Celery("test", set_as_current=False)

    @app.task(name="take", shared=False)
    def take(text: str) -> None: ...

    payload = to_task_message({"Body": "secret", "MessageId": "message-1"}, "take")
    if not raw:  # Celery's own messages have no such header
        del payload["headers"]["sqs_attributes"]
    message = Message(payload["body"], content_type="application/json", content_encoding="utf-8")
    message.accept = {"application/json"}
    message.headers, message.properties = payload["headers"], payload["properties"]
    shown = Request(message, app=app, task=take).info()["args"]
    assert shown == ("(<body of 6 bytes>,)" if raw else ["secret"])


class ShiftingPool(BasePool):
    """A pool that Celery does not know."""

    def on_apply(self, target: Any, args: Any, kwargs: Any, callback: Any, accept_callback: Any, **_: Any) -> None:
        accept_callback(1, 0.0)
        callback(target(*args, **kwargs))


class BrokenPool(BasePool):
    """Accepts no task, like a pool of threads for which the system starts no more threads."""

    def on_apply(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")


class Settled:
    """A request like those that Celery makes, and how its message was settled."""

    def __init__(
        self, pool: BasePool, embed: dict[str, Any] | None = None, run: Callable[[], None] | None = None
    ) -> None:
        self.app = app = Celery("test", set_as_current=False)

        @app.task(
            name="work",
            acks_late=True,
            acks_on_failure=False,
            reject_on_worker_lost=True,
            ignore_result=True,
            shared=False,
        )
        def work() -> None:
            if run:
                run()

        app.finalize()
        app.use_fast_trace_task = True  # a worker sets this, too
        work.__trace__ = build_tracer("work", work, app=app)
        payload = {
            "body": ([], {}, embed or {}),
            "headers": {"id": "task-1", "task": "work"},
            "properties": {"delivery_info": {}, "delivery_tag": "tag"},
        }
        self.message = OurMessage({**payload, "body": None})
        self.rejected: list[bool] = []
        self.acknowledged: list[bool] = []
        self.request = create_request_cls(Request, work, pool, "host", None, app=app)(
            self.message,
            app=app,
            task=work,
            body=payload["body"],
            decoded=True,
            on_ack=lambda *_: self.acknowledged.append(True),
            on_reject=lambda _, __, requeue: self.rejected.append(requeue),
        )
        state.task_reserved(self.request)
        pool.start()

    def run(self, pool: BasePool) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("celery.app.trace._localized", [self.app.tasks, frozenset(), "host"])
            try:
                self.request.execute_using_pool(pool)
            finally:
                pool.stop()


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
@pytest.mark.parametrize("pool_class", [ThreadPool, GeventPool, SoloPool, ShiftingPool])
def test_in_every_pool_what_celery_raises_leaves_no_trace_in_the_workers_state(
    pool_class: type[BasePool],
) -> None:
    settled = Settled(pool := pool_class(limit=1), embed={"chain": [{}]})
    settled.run(pool)
    assert (settled.rejected, settled.acknowledged) == ([False], [])
    assert settled.message.reject_reason.code == "AttributeError"
    assert (state.requests, set(state.reserved_requests), set(state.active_requests)) == ({}, set(), set())


def test_a_pool_that_takes_no_task_leaves_its_message_to_be_received_again() -> None:
    settled = Settled(pool := BrokenPool(limit=1))
    with pytest.raises(TaskRevokedError):
        settled.run(pool)
    assert settled.rejected == [True]
    assert state.requests == {}


@pytest.mark.parametrize("pool_class", [ThreadPool, GeventPool, SoloPool])
def test_a_task_that_ends_its_thread_is_lost_and_not_done(pool_class: type[BasePool]) -> None:
    def leave() -> None:
        raise SystemExit

    settled = Settled(pool := pool_class(limit=1), run=leave)
    settled.run(pool)
    assert (settled.rejected, settled.acknowledged) == ([True], [])
