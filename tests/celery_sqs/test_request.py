"""What the pools are told: the real ones are at work in test_transport.py and tests/slow/test_no_loss.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.gevent import TaskPool as GeventPool
from greenlet import GreenletExit
from kombu.message import Message

from celery_sqs.raw_queues import to_task_message
from celery_sqs.request import Request, learn_pool


def test_a_task_that_gevent_kills_is_lost_and_not_done() -> None:
    def killed() -> None:
        raise GreenletExit

    pool = GeventPool(limit=1)
    learn_pool(SimpleNamespace(pool=pool))
    failed, info, _ = pool._make_killable_target(killed)()
    assert failed
    assert isinstance(info.exception.exc, WorkerLostError)


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_any_other_error_of_a_task_is_its_own(error: type[BaseException]) -> None:
    def broken() -> None:
        raise error

    pool = GeventPool(limit=1)
    learn_pool(SimpleNamespace(pool=pool))
    with pytest.raises(error):
        pool._make_killable_target(broken)()


def test_at_its_stop_prefork_waits_for_what_a_process_has_been_given_but_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Request, "in_threads", True)
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
    learn_pool(SimpleNamespace(pool=pool))
    pool.flush()
    assert waited_for == [given]


@pytest.mark.parametrize("raw", [True, False])
def test_inspect_shows_a_tasks_arguments_but_nothing_of_a_raw_body(raw: bool) -> None:
    app = Celery("test", set_as_current=False)

    @app.task(name="take")
    def take(text: str) -> None: ...

    payload = to_task_message({"Body": "secret", "MessageId": "message-1"}, "take")
    if not raw:  # as Celery's own message is
        del payload["headers"]["sqs_attributes"]
    message = Message(payload["body"], content_type="application/json", content_encoding="utf-8")
    message.accept = {"application/json"}
    message.headers, message.properties = payload["headers"], payload["properties"]
    shown = Request(message, app=app, task=take).info()["args"]
    assert shown == ("(<body of 6 bytes>,)" if raw else ["secret"])
