from typing import Any

class ExceptionInfo:
    def __init__(self, exc_info: tuple[Any, ...] = ...) -> None: ...

class ExceptionWithTraceback(Exception):
    exc: Exception
