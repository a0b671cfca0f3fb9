class Options:
    address: str
    auth: str
    basic_auth: list[str] | None
    enable_events: bool
    read_only: bool
    tasks_columns: str
    unix_socket: str
    url_prefix: str | None

options: Options
