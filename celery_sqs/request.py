"""What Celery's worker makes of a message: a request that says when work begins, and why it is rejected."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import WorkerLostError
from celery.app.task import Task as CeleryTask
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.base import BasePool
from celery.exceptions import Reject
from celery.signals import worker_ready
from celery.worker.request import Request as CeleryRequest
from celery.worker.state import task_ready
from kombu.exceptions import OperationalError

from celery_sqs.dead_letters import Reason
from celery_sqs.deliveries import get_deliveries
from celery_sqs.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Callable


class Released(Exception):
    """The message was given back before its task began: another worker's turn."""


class Request(CeleryRequest):
    """Tells the transport when work begins, and why a message is rejected: Celery drops the reason before it asks."""

    #: Whether the pool is of threads, which keep a line of tasks and report each as it begins.
    in_threads = True

    def revoked(self) -> bool:
        """Asked before the task goes to the pool. From processes there is no calling it back: it begins here."""
        return (not self.in_threads and not self._may_begin()) or super().revoked()

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        # Threads keep a line of tasks, in which one may have been revoked meanwhile.
        if self.in_threads and (not self._may_begin() or self.revoked()):
            raise Released(self.id)
        delivery = get_deliveries().get(self.message.delivery_tag)
        super().on_accepted(pid, time_accepted)
        if self.in_threads and delivery and not self.task.acks_late:
            # Acknowledged before it runs means that it never runs twice: not before SQS has deleted it.
            delivery.wait_settled()

    @undisturbed
    def _may_begin(self) -> bool:
        if "sqs_queue" not in self.message.delivery_info:  # by another transport
            return True
        delivery = get_deliveries().get(self.message.delivery_tag)
        if delivery is not None and delivery.start():
            return True
        task_ready(self)  # `inspect reserved` would show it for ever
        return False

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `celery inspect` shows: of a raw queue's body its repr, which has no content."""
        return super().info(safe=safe or "sqs_attributes" in self.message.headers)

    def cancel(self, pool: BasePool, *args: Any, **kwargs: Any) -> None:
        """Asked on SIGQUIT: a pool that cannot stop a task lets it finish (Celery's own raises in the handler)."""
        if getattr(pool.terminate_job, "__func__", None) is not BasePool.terminate_job:
            super().cancel(pool, *args, **kwargs)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        cause = error.reason if isinstance(error, Reject) else error
        if isinstance(error, Reject):
            exc_info.exception = error  # else events, and so Flower, say "ExceptionWithTraceback()"
        if isinstance(error, Reject) and isinstance(cause, OperationalError):
            # `Task.retry` could not publish: Celery would drop the task for it. The message stays where it is.
            error.requeue = True
        elif isinstance(cause, OperationalError):
            return self.reject(requeue=True)
        self.message.reject_reason = _reason(cause)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


def use_our_request() -> None:
    """Make it every task's default: Celery asks a task for its request class (`Task.Request`) when a worker starts.

    So the transport is the one setting that a project needs.
    """
    CeleryTask.Request = Request


@worker_ready.connect
def learn_pool(sender: Any, **_: Any) -> None:
    """Before the first message: the signal's sender is the worker's consumer."""
    pool = sender.pool
    Request.in_threads = not pool.uses_semaphore
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


def _reason(cause: object) -> Reason:
    if isinstance(cause, Reason):
        return cause
    if isinstance(cause, BaseException):
        # Its text may quote what the task worked on.
        return Reason(type(cause).__name__, f"the task raised {type(cause).__name__}; the worker's log has the rest")
    return Reason("Rejected", str(cause or "the task rejected the message"))
