"""The contenders and the commands that start them. Each contender works on 32 emails at once."""

from __future__ import annotations

CONCURRENCY = 32
STAGE = "bench"

STOCK = "stock-threads"
BY_SQS, UNGROUPED, CHAIN, GEVENT = "chain-by-sqs", "chain-ungrouped", "chain-threads", "chain-gevent"
FLOOR, GROUPED_FLOOR = "floor-boto3", "floor-grouped"

WORKER = "worker"

# Like the other contenders, these workers consume only the queues that the emails travel through. An idle queue costs
# three receives a minute, and so does the queue for commands.
_QUEUES = f"emails_{STAGE},emails_{STAGE}_tasks"
_WORKER = f"celery -A tasks worker --loglevel WARNING --concurrency {CONCURRENCY}"
_OURS = f"{_WORKER} --queues {_QUEUES} --pool"

CONTENDERS = {
    STOCK: ("celery -A bench.stock_app worker --loglevel WARNING", "bench.stock_app"),
    BY_SQS: (f"{_OURS} threads".replace("-A tasks", "-A bench.by_sqs_app"),),
    UNGROUPED: (f"{_OURS} threads",),
    CHAIN: (f"{_OURS} threads",),
    GEVENT: (f"{_OURS} gevent",),
    "chain-prefork": (f"{_OURS} processes",),  # Celery takes "prefork" for no choice, and uses celeryconfig's pool
    "dramatiq": (f"dramatiq bench.dramatiq_app --processes 1 --threads {CONCURRENCY}", "bench.dramatiq_app"),
    FLOOR: ("bench.floor",),
    GROUPED_FLOOR: ("bench.floor",),
}

# The worker as people run it, with all its queues, takes part only in the measurement of idle workers.
COMMANDS = CONTENDERS | {WORKER: (_WORKER,)}

# The emails of these share DynamoDB requests. All others make a request of its own for each read and write of a row.
GROUPED = frozenset({CHAIN, GEVENT, "chain-prefork", GROUPED_FLOOR, WORKER})
