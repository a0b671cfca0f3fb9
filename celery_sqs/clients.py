"""How the boto3 clients for a broker are set."""

from __future__ import annotations

from typing import Any

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

# Events, commands and replies: monitoring never slows work. Flower: somebody waits for the page.
SHORT_TIMEOUTS: dict[str, Any] = {"connect_timeout": 2, "read_timeout": 3, "retries": {"total_max_attempts": 1}}
