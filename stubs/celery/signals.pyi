from collections.abc import Callable
from typing import Any, TypeVar

_Receiver = TypeVar("_Receiver", bound=Callable[..., Any])

class Signal:
    def connect(self, receiver: _Receiver) -> _Receiver: ...

celeryd_after_setup: Signal
celeryd_init: Signal
setup_logging: Signal
task_postrun: Signal
task_prerun: Signal
task_revoked: Signal
worker_init: Signal
worker_ready: Signal
worker_shutting_down: Signal
