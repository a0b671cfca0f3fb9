"""A task whose rejects keep their reason: Celery's own request drops it before the transport is asked."""

from __future__ import annotations

from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.app.task import Task as CeleryTask
from celery.exceptions import Reject
from celery.worker.request import Request as CeleryRequest
from kombu.exceptions import OperationalError

from celery_sqs.dead_letters import Reason


class Request(CeleryRequest):
    """Tells the message why it is about to be rejected."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        error = exc_info.exception
        error = error.exc if isinstance(error, ExceptionWithTraceback) else error
        cause = error.reason if isinstance(error, Reject) else error
        if isinstance(error, Reject) and isinstance(cause, OperationalError):
            # `Task.retry` could not publish: Celery would drop the task for it. The message stays where it is.
            error.requeue = True
        elif isinstance(cause, OperationalError):
            return self.reject(requeue=True)
        self.message.reject_reason = _reason(cause)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


class Task(CeleryTask):
    """Use it as `Celery(task_cls="celery_sqs:Task")`, then `raise Reject(Reason(code, detail))`."""

    Request = Request


def _reason(cause: object) -> Reason:
    if isinstance(cause, Reason):
        return cause
    if isinstance(cause, BaseException):
        # Its text may quote what the task worked on.
        return Reason(type(cause).__name__, f"the task raised {type(cause).__name__}; the worker's log has the rest")
    return Reason("Rejected", str(cause or "the task rejected the message"))
