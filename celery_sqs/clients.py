"""boto3 clients for a broker: how they are set, and that a process has each once."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

T = TypeVar("T")

# Beside kombu's `client-config`, which overrides them. A half-open connection is noticed by the time-outs: the read
# time-out is above the longest poll (20 s). Retries are the pollers' and batchers' own.
CLIENT_CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 25,
    "tcp_keepalive": True,
    "retries": {"mode": "standard", "total_max_attempts": 2},
    "max_pool_connections": 50,
    # As in settings that the bench compares: both save CPU on every request.
    "user_agent": "celery_sqs",
    "parameter_validation": False,
}

# Events, commands and replies: monitoring never slows work.
IMPATIENT = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 1})

_made: dict[tuple[int, Hashable], Any] = {}
_making = threading.RLock()
# A process that is forked while another thread makes a client would wait for that thread for ever.
os.register_at_fork(after_in_child=lambda: globals().update(_making=threading.RLock()))


def one_a_process(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gave the first time that this process asked for it under this key."""
    with _making:
        mine = (os.getpid(), key)
        if mine not in _made:
            _made[mine] = make()
        made: T = _made[mine]
        return made
