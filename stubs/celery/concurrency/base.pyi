from collections.abc import Callable
from typing import Any

class BasePool:
    uses_semaphore: bool
    def apply_async(self, target: Callable[..., Any], *args: Any, **options: Any) -> Any: ...
    def terminate_job(self, pid: int, signal: Any = ...) -> None: ...
