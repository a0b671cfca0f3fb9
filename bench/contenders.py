"""The contenders and the commands that start them. Each contender works on 16 emails at once."""

from __future__ import annotations

CONCURRENCY = 16
STAGE = "bench"

STOCK, CHAIN, BY_SQS, FLOOR = "stock-threads", "chain-threads", "chain-by-sqs", "floor-boto3"

WORKER = "worker"

# Like the other contenders, these workers consume only the queues that the emails travel through. An idle queue costs
# three receives a minute, and so does the queue for commands.
_QUEUES = f"emails_{STAGE},emails_{STAGE}_tasks"
_WORKER = f"celery -A tasks worker --loglevel WARNING --concurrency {CONCURRENCY}"
_OURS = f"{_WORKER} --queues {_QUEUES} --pool"

CONTENDERS = {
    STOCK: ("celery -A bench.stock_app worker --loglevel WARNING", "bench.stock_app"),
    CHAIN: (f"{_OURS} threads",),
    BY_SQS: (f"{_OURS} threads".replace("-A tasks", "-A bench.by_sqs_app"),),
    "chain-gevent": (f"{_OURS} gevent",),
    "chain-prefork": (f"{_OURS} processes",),  # Celery takes "prefork" for no choice, and uses celeryconfig's pool
    "dramatiq": (f"dramatiq bench.dramatiq_app --processes 1 --threads {CONCURRENCY}", "bench.dramatiq_app"),
    FLOOR: ("bench.floor",),
}

# The worker as people run it, with all its queues, takes part only in the measurement of idle workers.
COMMANDS = CONTENDERS | {WORKER: (_WORKER,)}

# Grouping is part of the service, so all others make a request of its own for each read and write of a row.
GROUPED = frozenset({CHAIN, "chain-gevent", "chain-prefork", WORKER})
