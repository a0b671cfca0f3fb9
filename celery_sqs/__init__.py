"""Celery on SQS: a kombu transport. Knows nothing of the project around it."""

from celery_sqs.dead_letters import Reason
from celery_sqs.poller import pause
from celery_sqs.transport import Transport

__all__ = ["Reason", "Transport", "pause"]
