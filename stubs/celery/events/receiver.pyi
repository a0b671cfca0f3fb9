from typing import Any

class EventReceiver:
    def _receive(self, body: Any, message: Any) -> None: ...
