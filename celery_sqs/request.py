"""The request that Celery's worker makes of each message. Ours reports when work begins and why it is rejected."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded, WorkerLostError
from celery.concurrency.base import BasePool
from celery.exceptions import InvalidTaskError, Reject, TaskPredicate, TaskRevokedError
from celery.worker.request import Request as CeleryRequest
from celery.worker.state import task_ready
from kombu.exceptions import OperationalError
from kombu.log import get_logger

from celery_sqs.exceptions import PublishDenied, PublishRefused
from celery_sqs.held_messages import held_messages
from celery_sqs.poller import stop_receiving_for
from celery_sqs.signals import uninterrupted
from celery_sqs.sqs.dead_letters import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_sqs.admission import Message

logger = get_logger(__name__)

DENIED_SECONDS = 10

# The errors that a pool reports and that `on_failure` handles. Any other error has escaped from Celery's own code.
REPORTED_BY_POOLS = (
    KeyboardInterrupt,
    OperationalError,
    SoftTimeLimitExceeded,
    SystemExit,
    TaskPredicate,
    Terminated,
    TimeLimitExceeded,
    WorkerLostError,
)


class Released(Exception):
    """The message was given back before its task began, so another worker runs it."""


class Request(CeleryRequest):
    """Tells the transport when work begins, and why a message is rejected.

    Celery itself drops the reason before it rejects the message.
    """

    # Whether the pool runs tasks within this process. Such a pool queues tasks, and reports each one when it begins.
    _in_process = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Keep our `execute_using_pool` in the class that Celery derives for each task (`create_request_cls`).

        Celery's version would hand the task to the pool unguarded.
        """
        super().__init_subclass__(**options)
        if cls.__module__ == CeleryRequest.__module__:
            del cls.execute_using_pool

    def __init__(self, message: Message, *args: Any, **kwargs: Any) -> None:
        if held := held_messages().get(message.delivery_tag):
            held.wait_for_start()
        try:
            super().__init__(message, *args, **kwargs)
            self._check()
        except InvalidTaskError:
            message.reject_reason = Reason(
                "InvalidTaskError", "the message cannot be turned into a task; see the worker's log"
            )
            raise

    def _check(self) -> None:
        """Refuse values that Celery does not check here and fails on later, in the pool or without any message.

        Raises:
            InvalidTaskError: the keyword arguments or the time limits are invalid.
        """
        if not isinstance(self.kwargs, dict):
            raise InvalidTaskError("the keyword arguments are not a mapping")
        match self.time_limits:
            case [hard, soft] if _is_time_limit(hard) and _is_time_limit(soft):
                pass
            case _:
                raise InvalidTaskError("the time limits are not two numbers of seconds")

    def execute_using_pool(self, pool: BasePool, **kwargs: Any) -> Any:
        """Hand the task to the pool, and settle its message even if Celery's own code raises an error."""
        self._in_process = not pool.uses_semaphore
        try:
            return super().execute_using_pool(_GuardedPool(pool, self), **kwargs)
        except TaskRevokedError:
            raise
        except Released:
            pass
        except Exception as error:  # noqa: BLE001 (whatever the error is, the message must be settled)
            self.on_escape(error)
        raise TaskRevokedError(self.id)  # makes Celery free the slot that it took in the pool

    def on_escape(self, error: BaseException) -> None:
        """Settle the task's message after Celery's own code has raised an error while handling it."""
        name, place = type(error).__name__, _place(error)
        # The error's text is not logged, because it may quote the task's data.
        logger.error("%s escaped from Celery's handling of task %s[%s], at %s", name, self.name, self.id, place)
        task_ready(self)
        _hold_off(error)
        if "reject_reason" not in vars(self.message):  # it is set if Celery failed while it recorded a rejection
            self.message.reject_reason = _reason(error, f"Celery raised {name} around the task, at {place}")
        try:
            self.reject(requeue=isinstance(error, OperationalError))
        except Exception as second:  # noqa: BLE001 (the message is settled by then, and only the event is missing)
            logger.error("cannot report that task %s[%s] was rejected: %s", self.name, self.id, type(second).__name__)

    def revoked(self) -> bool:
        """Whether the task must not run. Celery asks before it hands the task to the pool.

        A task cannot be called back from a pool of processes, so for that pool its work begins here.
        """
        return (not self._in_process and not self._may_begin()) or super().revoked()

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        # A pool of threads queues tasks, and this one may have been revoked while it waited.
        if self._in_process and (not self._may_begin() or self.revoked()):
            raise Released(self.id)
        held = held_messages().get(self.message.delivery_tag)
        if self._in_process and held and not self.task.acks_late:
            # A task that is acknowledged early must never run twice, so it begins only after SQS has deleted its
            # message. Celery would acknowledge it in the consumer's loop, but with the solo pool that loop runs the
            # task.
            held.ack()
            held.wait_settled()
        super().on_accepted(pid, time_accepted)

    @uninterrupted
    def _may_begin(self) -> bool:
        if not _by_our_transport(self.message):
            return True
        held = held_messages().get(self.message.delivery_tag)
        if held is not None and held.start():
            return True
        task_ready(self)  # otherwise `inspect reserved` would show it forever
        return False

    @property
    def eta(self) -> Any:
        """None, so that Celery's worker sets no timer: the transport has already waited. The task sees its ETA."""
        return None if _by_our_transport(self.message) else super().eta

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return what `celery inspect` shows. For a raw queue it shows the repr of the body, which has no content."""
        return super().info(safe=safe or "sqs_attributes" in self.message.headers)

    def cancel(self, pool: BasePool, *args: Any, **kwargs: Any) -> None:
        """Stop the task. Celery calls this on SIGQUIT.

        A pool that cannot stop tasks lets this one finish, because Celery's version would raise an error in the signal
        handler.
        """
        if getattr(pool.terminate_job, "__func__", None) is not BasePool.terminate_job:
            super().cancel(pool, *args, **kwargs)

    def reject(self, requeue: bool = False) -> None:
        if requeue and "sqs_queue" in self.message.delivery_info:
            # This must happen now, before a thread of the pool takes the next message, which may be of the same group.
            self.message.channel.release_followers(self.message.delivery_tag)
        super().reject(requeue)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        error = _raised(exc_info)
        cause = error.reason if isinstance(error, Reject) else error
        _hold_off(cause)
        if isinstance(error, Reject):
            exc_info.exception = error  # otherwise events, and so Flower, show "ExceptionWithTraceback()"
        if isinstance(error, Reject) and isinstance(cause, OperationalError):
            # `Task.retry` could not publish. Celery would drop the task, so the message is given back instead.
            error.requeue = True
        elif isinstance(cause, OperationalError):
            task_ready(self)
            return self.reject(requeue=True)
        self.message.reject_reason = _reason(cause)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


class _GuardedPool:
    """Wraps the pool for one request, so that every error that the pool raises reaches the request."""

    def __init__(self, pool: BasePool, request: Request) -> None:
        self._pool = pool
        self._request = request

    def apply_async(
        self,
        target: Callable[..., Any],
        *,
        accept_callback: Callable[..., Any],
        callback: Callable[..., Any],
        error_callback: Callable[..., Any],
        timeout_callback: Callable[..., Any],
        **options: Any,
    ) -> Any:
        def on_accepted(*args: Any) -> None:
            try:
                accept_callback(*args)
            except Released:
                raise
            except Exception as error:  # noqa: BLE001 (whatever the error is, the message must be settled)
                self._request.on_escape(error)
                raise Released(self._request.id) from None  # so that the task does not run

        def on_result(result: Any) -> Any:
            # Pools within this process also report here the error that killed a task, which Celery does not expect.
            return on_error(result) if isinstance(result, ExceptionInfo) else callback(result)

        def on_error(info: ExceptionInfo) -> Any:
            error = _raised(info)
            return error_callback(info) if isinstance(error, REPORTED_BY_POOLS) else self._request.on_escape(error)

        # A pool of processes reports the target's errors itself. When it calls `on_accepted`, work has already begun.
        in_processes = self._pool.uses_semaphore
        try:
            return self._pool.apply_async(
                target if in_processes else partial(_report, target),
                accept_callback=accept_callback if in_processes else on_accepted,
                callback=self._guarded(on_result),
                error_callback=self._guarded(on_error),
                timeout_callback=self._guarded(timeout_callback),
                **options,
            )
        except Released:
            raise
        except Exception as error:  # the pool is at fault, and not the message
            raise OperationalError(f"the pool does not accept tasks: {type(error).__name__}") from error

    def _guarded(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 (the pool would only log it)
                self._request.on_escape(error)

        return call


def _report(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run the target, and return its error instead of raising it. Pools within this process would swallow it."""
    try:
        return target(*args, **kwargs)
    except Exception:  # noqa: BLE001 (it is returned, and `on_result` reports it)
        return ExceptionInfo()


def _by_our_transport(message: Any) -> bool:
    return "sqs_queue" in message.delivery_info


def _is_time_limit(limit: object) -> bool:
    # The pool adds a limit to a float, which fails if the limit is a larger integer than any float.
    return limit is None or (isinstance(limit, int | float) and abs(limit) <= sys.float_info.max)


def _raised(info: ExceptionInfo) -> BaseException:
    error: BaseException = info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _place(error: BaseException) -> str:
    """Return the line of code that raised the error, as "file:line"."""
    frames = extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"


def _hold_off(cause: object) -> None:
    """Receive nothing for 10 seconds if a task could not publish to our own queues. Others could not finish either."""
    if isinstance(cause, PublishDenied):
        stop_receiving_for(DENIED_SECONDS, cause.queue, cause.code)


def _reason(cause: object, detail: str = "") -> Reason:
    if isinstance(cause, Reason):
        return cause
    if isinstance(cause, PublishRefused):
        return Reason("ChildRefused", str(cause))
    if isinstance(cause, BaseException):
        name = type(cause).__name__
        # The error's text is left out, because it may quote the task's data.
        return Reason(name, detail or f"the task raised {name}; the worker's log has the rest")
    return Reason("Rejected", str(cause or "the task rejected the message"))
