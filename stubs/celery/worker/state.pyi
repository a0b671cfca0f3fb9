from collections.abc import MutableSet

from celery.worker.request import Request

requests: dict[str, Request]
reserved_requests: MutableSet[Request]
active_requests: MutableSet[Request]
should_stop: int | None
should_terminate: int | None

def task_ready(request: Request, successful: bool = ...) -> None: ...
def task_reserved(request: Request) -> None: ...
