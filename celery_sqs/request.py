"""What Celery's worker makes of a message: a request that says when work begins, and why it is rejected."""

from __future__ import annotations

import math
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

# What a pool reports, beside an exception that escaped from Celery's tracer: `on_failure` knows what each means.
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
    """The message was given back before its task began: another worker's turn."""


class Request(CeleryRequest):
    """Tells the transport when work begins, and why a message is rejected: Celery drops the reason before it asks."""

    # Whether the pool runs tasks within this process: it keeps a line of tasks, and reports each as it begins.
    _in_process = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Celery derives a class for each task (`create_request_cls`), which would hand it to the pool unguarded."""
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
                "InvalidTaskError", "no task can be made of the message; see the worker's log"
            )
            raise

    def _check(self) -> None:
        """Refuse what Celery does not check and then fails on: in a pool, or (keyword arguments) without a word."""
        if not isinstance(self.kwargs, dict):
            raise InvalidTaskError("the keyword arguments are not a mapping")
        match self.time_limits:
            case [hard, soft] if _is_time_limit(hard) and _is_time_limit(soft):
                pass
            case _:
                raise InvalidTaskError("the time limits are not two numbers of seconds")

    def execute_using_pool(self, pool: BasePool, **kwargs: Any) -> Any:
        """Hand the task to the pool, and settle its message even if Celery's own code raises on the way or there."""
        self._in_process = not pool.uses_semaphore
        try:
            return super().execute_using_pool(_GuardedPool(pool, self), **kwargs)
        except TaskRevokedError:
            raise
        except Released:
            pass
        except Exception as error:  # noqa: BLE001 (whatever it is, the message must not stay here for ever)
            self.on_escape(error)
        raise TaskRevokedError(self.id)  # by which Celery frees the place that it took in the pool

    def on_escape(self, error: BaseException) -> None:
        """Settle the message of a task around which Celery's own code raised."""
        name, place = type(error).__name__, _place(error)
        # Not its text, which may quote what the task worked on.
        logger.error("%s escaped from Celery's handling of task %s[%s], at %s", name, self.name, self.id, place)
        task_ready(self)
        _hold_off(error)
        if "reject_reason" not in vars(self.message):  # set where a task's own rejection could not be recorded
            self.message.reject_reason = _reason(error, f"Celery raised {name} around the task, at {place}")
        try:
            self.reject(requeue=isinstance(error, OperationalError))
        except Exception as second:  # noqa: BLE001 (only the event is missing: it is sent when the message is settled)
            logger.error("cannot tell that task %s[%s] was rejected: %s", self.name, self.id, type(second).__name__)

    def revoked(self) -> bool:
        """Asked before the task goes to the pool. From processes there is no calling it back: it begins here."""
        return (not self._in_process and not self._may_begin()) or super().revoked()

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        # Threads keep a line of tasks, in which one may have been revoked meanwhile.
        if self._in_process and (not self._may_begin() or self.revoked()):
            raise Released(self.id)
        held = held_messages().get(self.message.delivery_tag)
        if self._in_process and held and not self.task.acks_late:
            # Acknowledged before it runs means that it never runs twice: not before SQS has deleted it. Celery's own
            # way leads through the consumer's loop, which may be what runs the task (solo).
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
        task_ready(self)  # `inspect reserved` would show it for ever
        return False

    @property
    def eta(self) -> Any:
        """None: the transport has waited for it, and Celery's worker is to set no timer. The task's request has it."""
        return None if _by_our_transport(self.message) else super().eta

    def info(self, safe: bool = False) -> dict[str, Any]:
        """What `celery inspect` shows: of a raw queue's body its repr, which has no content."""
        return super().info(safe=safe or "sqs_attributes" in self.message.headers)

    def cancel(self, pool: BasePool, *args: Any, **kwargs: Any) -> None:
        """Asked on SIGQUIT: a pool that cannot stop a task lets it finish (Celery's own raises in the handler)."""
        if getattr(pool.terminate_job, "__func__", None) is not BasePool.terminate_job:
            super().cancel(pool, *args, **kwargs)

    def reject(self, requeue: bool = False) -> None:
        if requeue and "sqs_queue" in self.message.delivery_info:
            # Now, before a thread of the pool takes up the next message, which may be of the same message group.
            self.message.channel.release_followers(self.message.delivery_tag)
        super().reject(requeue)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        error = _raised(exc_info)
        cause = error.reason if isinstance(error, Reject) else error
        _hold_off(cause)
        if isinstance(error, Reject):
            exc_info.exception = error  # else events, and so Flower, say "ExceptionWithTraceback()"
        if isinstance(error, Reject) and isinstance(cause, OperationalError):
            # `Task.retry` could not publish: Celery would drop the task for it. The message stays where it is.
            error.requeue = True
        elif isinstance(cause, OperationalError):
            task_ready(self)
            return self.reject(requeue=True)
        self.message.reject_reason = _reason(cause)
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)


class _GuardedPool:
    """The pool that a request is handed to: whatever is raised there comes back to the request."""

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
            except Exception as error:  # noqa: BLE001 (the same)
                self._request.on_escape(error)
                raise Released(self._request.id) from None  # so that it does not run either

        def on_result(result: Any) -> Any:
            # Pools within this process report here what killed a task, too, as Celery's does not expect.
            return on_error(result) if isinstance(result, ExceptionInfo) else callback(result)

        def on_error(info: ExceptionInfo) -> Any:
            error = _raised(info)
            return error_callback(info) if isinstance(error, REPORTED_BY_POOLS) else self._request.on_escape(error)

        # Processes report what the target raises by themselves, and have begun already when they say so.
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
        except Exception as error:  # it is the pool's, and no fault of the message
            raise OperationalError(f"the pool does not take tasks: {type(error).__name__}") from error

    def _guarded(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 (no pool does more than to log it)
                self._request.on_escape(error)

        return call


def _report(target: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what the target raises: pools within this process would pass it on to nobody."""
    try:
        return target(*args, **kwargs)
    except Exception:  # noqa: BLE001 (it is reported)
        return ExceptionInfo()


def _by_our_transport(message: Any) -> bool:
    return "sqs_queue" in message.delivery_info


def _is_time_limit(limit: object) -> bool:
    return limit is None or (isinstance(limit, int | float) and abs(limit) < math.inf)


def _raised(info: ExceptionInfo) -> BaseException:
    error: BaseException = info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def _place(error: BaseException) -> str:
    """The line of code that raised it."""
    frames = extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"


def _hold_off(cause: object) -> None:
    """Receive nothing for a while if tasks cannot publish to our own queues: what is received could not be finished."""
    if isinstance(cause, PublishDenied):
        stop_receiving_for(DENIED_SECONDS, cause.queue, cause.code)


def _reason(cause: object, detail: str = "") -> Reason:
    if isinstance(cause, Reason):
        return cause
    if isinstance(cause, PublishRefused):
        return Reason("ChildRefused", str(cause))
    if isinstance(cause, BaseException):
        name = type(cause).__name__
        # Its text may quote what the task worked on.
        return Reason(name, detail or f"the task raised {name}; the worker's log has the rest")
    return Reason("Rejected", str(cause or "the task rejected the message"))
