"""The request that a worker makes of each message of ours. It reports an email that ended badly as a failed task."""

from __future__ import annotations

from typing import Any

from celery.utils.saferepr import saferepr

from celery_sqs.request import Request as BaseRequest
from emails.status import NEEDS_PERSON


class Request(BaseRequest):
    """Sends the event task-failed, instead of task-succeeded, for a task whose email ended Failed or Unknown.

    The task itself has succeeded: if it raised an exception, its message would become a dead letter. But monitors such
    as Flower know only the tasks' events, and would show these emails among those that were sent.
    """

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 (Celery passes it by this name)
        result = fields.get("result")
        # load_email returns the id of an email that may be sent, and an id can be any text.
        if type == "task-succeeded" and ended_badly(result) and result != saferepr(next(iter(self.args), None)):
            super().send_event("task-failed", exception=result, **fields)
        else:
            super().send_event(type, **fields)


def ended_badly(result: object) -> bool:
    """Whether this repr of a task's result says that its email is now Failed or Unknown."""
    return isinstance(result, str) and result[1:].split(":")[0].rstrip("'\"") in NEEDS_PERSON
