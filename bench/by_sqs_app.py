"""This service without hand-off, so that each task's message goes through SQS: `celery -A bench.by_sqs_app worker`."""

from __future__ import annotations

from tasks import app

__all__ = ["app"]

app.conf.broker_transport_options["hand_off"] = False
