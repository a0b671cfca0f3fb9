from typing import Any

from celery import Celery, Signature

class Context:
    argsrepr: str
    chain: Any
    id: str
    headers: dict[str, Any] | None  # those that are not Celery's own
    properties: dict[str, Any]
    retries: int
    root_id: str
    def get(self, key: str, default: Any = None) -> Any: ...

class Task:
    Request: Any
    acks_late: bool
    app: Celery
    name: str
    request: Context
    def apply_async(self, args: tuple[Any, ...], *, chain: list[Signature[Any]]) -> Any: ...
    def run(self, *args: Any, **kwargs: Any) -> Any: ...
    def retry(
        self,
        args: tuple[Any, ...] | None = None,
        *,
        countdown: float,
        argsrepr: str = ...,
        headers: dict[str, Any] | None = ...,
    ) -> BaseException: ...
    def s(self, *args: Any, **kwargs: Any) -> Signature[Any]: ...
