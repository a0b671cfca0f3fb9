from tornado import web

class Flower(web.Application):
    def start_http_server(self) -> int | None: ...
