from typing import Any

class AsynPool:
    _cache: dict[int, Any]

    def _create_write_handlers(self, hub: Any) -> None: ...
