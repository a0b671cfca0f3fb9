from typing import Any

from tornado import web

class Flower(web.Application):
    def __init__(self, **kwargs: Any) -> None: ...
    def start_http_server(self) -> int | None: ...
