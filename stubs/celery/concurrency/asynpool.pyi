from typing import Any

class AsynPool:
    _cache: dict[int, Any]
