from collections.abc import Callable
from typing import Any

class BasePool:
    flush: Any
    _make_killable_target: Any
    _pool: Any
    uses_semaphore: bool
    def apply_async(self, target: Callable[..., Any], *args: Any, **options: Any) -> Any: ...
    def terminate_job(self, pid: int, signal: Any = ...) -> None: ...
