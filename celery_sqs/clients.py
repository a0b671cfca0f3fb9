"""Settings of the boto3 clients that talk to the broker."""

from __future__ import annotations

from typing import Any

# The transport option `client-config` overrides these. The time-outs detect a half-open connection. The read time-out
# is longer than the longest poll (20 s). boto3 retries little, because the pollers and batchers retry themselves.
CLIENT_CONFIG = {
    "connect_timeout": 5,
    "read_timeout": 25,
    "tcp_keepalive": True,
    "retries": {"mode": "standard", "total_max_attempts": 2},
    "max_pool_connections": 50,
    # Both save CPU on every request.
    "user_agent": "celery_sqs",
    "parameter_validation": False,
}

# For events, remote commands and replies, because monitoring must never slow down work. Also for Flower, because
# somebody is waiting for the page.
SHORT_TIMEOUTS: dict[str, Any] = {"connect_timeout": 2, "read_timeout": 3, "retries": {"total_max_attempts": 1}}
