from typing import Any

class ExceptionInfo:
    exception: Any
    def __init__(self, exc_info: tuple[Any, ...] = ...) -> None: ...

class ExceptionWithTraceback(Exception):
    exc: Exception
