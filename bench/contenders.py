"""Who is compared: each with the commands that start it, and each with 16 emails in work at once."""

from __future__ import annotations

CONCURRENCY = 16
STAGE = "bench"

STOCK, CHAIN, FLOOR = "stock-threads", "chain-threads", "floor-boto3"

WORKER = "worker"

# The queues by which these emails travel, as the others consume theirs alone: each costs three receives a minute when
# idle, and so does the one for commands.
_QUEUES = f"emails_{STAGE},emails_{STAGE}_tasks"
_WORKER = f"celery -A tasks worker --loglevel WARNING --concurrency {CONCURRENCY}"
_OURS = f"{_WORKER} --queues {_QUEUES} --pool"

CONTENDERS = {
    STOCK: ("celery -A bench.stock_app worker --loglevel WARNING", "bench.stock_app"),
    CHAIN: (f"{_OURS} threads",),
    "chain-gevent": (f"{_OURS} gevent",),
    "chain-prefork": (f"{_OURS} processes",),  # Celery takes "prefork" for its default, and celeryconfig's pool instead
    "dramatiq": (f"dramatiq bench.dramatiq_app --processes 1 --threads {CONCURRENCY}", "bench.dramatiq_app"),
    FLOOR: ("bench.floor",),
}

# Beside them, for the idle figure alone: the worker that people run, with all its queues.
COMMANDS = CONTENDERS | {WORKER: (_WORKER,)}
