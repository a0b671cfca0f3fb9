from typing import Any

from flower.views import BaseHandler

class BaseApiHandler(BaseHandler):
    write_error: Any
    def set_header(self, name: str, value: str) -> None: ...
