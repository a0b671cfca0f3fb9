from collections.abc import Callable
from typing import Any

class Panel:
    data: dict[str, Callable[..., Any]]

def nok(value: str) -> dict[str, str]: ...
def ok(value: str) -> dict[str, str]: ...
