class Reject(Exception):
    reason: object
    requeue: bool
    def __init__(self, reason: object = ..., requeue: bool = ...) -> None: ...
