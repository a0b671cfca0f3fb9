class _Process:
    pid: int

def active_children() -> list[_Process]: ...
