from collections.abc import Awaitable, Callable
from typing import ClassVar

from flower.views import BaseHandler

class BrokerView(BaseHandler):
    get: ClassVar[Callable[..., Awaitable[None] | None]]
