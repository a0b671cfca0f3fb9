from collections.abc import Callable
from typing import Any

class Consumer:
    connection_errors: tuple[type[BaseException], ...]
    on_ready: Any
    on_decode_error: Callable[..., None]
    on_unknown_message: Callable[..., None]
