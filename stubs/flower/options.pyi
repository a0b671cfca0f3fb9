class Options:
    address: str
    auth: str
    basic_auth: list[str] | None
    enable_events: bool
    unix_socket: str

options: Options
