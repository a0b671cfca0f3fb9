from typing import Any

class BasePool:
    def terminate_job(self, pid: int, signal: Any = ...) -> None: ...
