"""Makes Celery's pools report what they would keep to themselves when a task is killed or the worker stops."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.concurrency.asynpool import AsynPool

from celery_sqs.request import Released

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.concurrency.base import BasePool


def learn_pool(pool: BasePool) -> None:
    """Have the pool report what it would keep to itself."""
    if type(pool).__module__ == "celery.concurrency.gevent":
        from gevent import get_hub  # noqa: PLC0415 (it is there for its own pool alone)

        pool._make_killable_target = _killable
        get_hub().NOT_ERROR += (Released,)  # or it prints the traceback of each
    if isinstance(getattr(pool, "_pool", None), AsynPool):
        pool.flush = partial(_flush, pool.flush, pool._pool)


def _killable(target: Callable[..., Any]) -> Callable[..., Any]:
    """Gevent's pool reports a task that it killed as done, and so the worker would acknowledge it: here it is lost."""

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return target(*args, **kwargs)
        except BaseException as error:
            if type(error).__name__ != "GreenletExit":  # gevent is not there for every pool
                raise
            lost = WorkerLostError("the task was killed")
            return True, ExceptionInfo((WorkerLostError, lost, error.__traceback__)), 0.0

    return run


def _flush(flush: Callable[[], None], pool: AsynPool) -> None:
    """Prefork forgets, when it stops, a task that a process has been given but has not yet reported as begun.

    It runs all the same, and nobody would acknowledge it.
    """
    for job in tuple(pool._cache.values()):
        if job._write_to:
            job._accepted = True
    flush()
