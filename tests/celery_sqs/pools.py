"""The pools that a worker of the test app can have, as options of `celery worker`."""

from __future__ import annotations

import pytest

POOLS = {
    "threads": ("-P", "threads", "-c", "4"),
    "gevent": ("-P", "gevent", "-c", "4"),
    "prefork": ("-P", "prefork", "-c", "2"),
}
SOLO = ("-P", "solo")
threads = POOLS["threads"]
slow_pools = [pytest.param(POOLS[name], marks=pytest.mark.slow, id=name) for name in ("gevent", "prefork")]
each_pool = pytest.mark.parametrize("pool", [pytest.param(threads, id="threads"), *slow_pools])
