from collections.abc import Callable
from typing import Any, TypeVar, overload

_Receiver = TypeVar("_Receiver", bound=Callable[..., Any])

class Signal:
    def __init__(self, *, name: str, providing_args: set[str]) -> None: ...
    @overload
    def connect(self, receiver: _Receiver) -> _Receiver: ...
    @overload
    def connect(self, *, weak: bool) -> Callable[[_Receiver], _Receiver]: ...
    def send(self, sender: object, **named: object) -> object: ...

celeryd_after_setup: Signal
celeryd_init: Signal
setup_logging: Signal
task_failure: Signal
task_postrun: Signal
task_prerun: Signal
task_rejected: Signal
task_revoked: Signal
task_success: Signal
worker_init: Signal
worker_process_init: Signal
worker_process_shutdown: Signal
worker_ready: Signal
worker_shutting_down: Signal
