"""Makes Celery's pools report what they do not report themselves, when a task is killed or the worker stops."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.concurrency.asynpool import AsynPool

from celery_sqs.request import Released
from celery_sqs.signals import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.concurrency.base import BasePool


def write_jobs_uninterrupted() -> None:
    """Have prefork finish the write of a job to a process before a signal is handled.

    Celery's handler for SIGQUIT waits for the pool. If it interrupted the write, the process would wait for the rest of
    the job, the handler for the process, and the worker would never stop.
    """
    AsynPool._create_write_handlers = _create_write_handlers  # type: ignore[method-assign]  # that is what a patch does


_celerys_create_write_handlers = AsynPool._create_write_handlers


def _create_write_handlers(self: AsynPool, hub: Any) -> None:
    _celerys_create_write_handlers(self, hub)
    hub.consolidate_callback = uninterrupted(hub.consolidate_callback)


def learn_pool(pool: BasePool) -> None:
    """Install the replacement for this worker's pool, if it needs one."""
    if type(pool).__module__ == "celery.concurrency.gevent":
        from gevent import get_hub  # noqa: PLC0415 (gevent is installed only if its pool is used)

        pool._make_killable_target = _killable
        get_hub().NOT_ERROR += (Released,)  # otherwise it prints the traceback of each one
    if isinstance(getattr(pool, "_pool", None), AsynPool):
        pool.flush = partial(_flush, pool.flush, pool._pool)


def _killable(target: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a task's function so that a killed task is reported as lost.

    Gevent's pool would report it as done, and the worker would acknowledge its message.
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return target(*args, **kwargs)
        except BaseException as error:
            if type(error).__name__ != "GreenletExit":  # by name, because gevent may not be installed
                raise
            lost = WorkerLostError("the task was killed")
            return True, ExceptionInfo((WorkerLostError, lost, error.__traceback__)), 0.0

    return run


def _flush(flush: Callable[[], None], pool: AsynPool) -> None:
    """Mark tasks that were already sent to a process as begun, before prefork's `flush` forgets those that were not.

    Such a task runs even if its process has not reported that yet, and without this nothing would acknowledge it.
    """
    for job in tuple(pool._cache.values()):
        if job._write_to:
            job._accepted = True
    flush()
