from collections.abc import Callable
from typing import Any, ClassVar

import flower.app
from celery import Celery
from tornado import web

hmac: Any

class BaseHandler(web.RequestHandler):
    application: flower.app.Flower
    capp: Celery
    get_broker: ClassVar[Callable[..., Any]]
    def get_active_queue_names(self) -> list[str]: ...
    def get_argument(self, name: str, default: str = ..., strip: bool = ..., *, escape: bool = ...) -> str: ...  # type: ignore[override]  # Flower's has other parameters than Tornado's
