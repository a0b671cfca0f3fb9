from typing import Any

from flower.events import Events
from flower.options import Options
from tornado import web

def rewrite_handler(handler: web.URLSpec, url_prefix: str) -> web.URLSpec: ...

class Flower(web.Application):
    options: Options
    events: Events
    def __init__(self, **kwargs: Any) -> None: ...
    def start_http_server(self) -> int | None: ...
