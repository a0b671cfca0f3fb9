from typing import Any

class Message:
    delivery_info: dict[str, Any]
    headers: dict[str, Any]
    properties: dict[str, Any]

class QoS:
    _delivered: dict[str, Any]
    _dirty: set[str]
    def __init__(self, channel: Any, prefetch_count: int = ...) -> None: ...
    def ack(self, delivery_tag: str) -> None: ...
    def get(self, delivery_tag: str) -> Any: ...
    def reject(self, delivery_tag: str, requeue: bool = ...) -> None: ...

class Channel:
    def basic_get(self, queue: str, no_ack: bool = ..., **kwargs: Any) -> Any: ...
    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, *args: Any, **kwargs: Any
    ) -> None: ...
