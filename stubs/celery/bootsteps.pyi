from typing import Any

class Step:
    def __init__(self, parent: Any, **kwargs: Any) -> None: ...
    def info(self, obj: Any) -> dict[str, Any] | None: ...

RUN: int
TERMINATE: int
