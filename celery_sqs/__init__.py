"""A kombu transport that lets Celery run on Amazon SQS. It does not depend on the project around it.

Set Celery's `broker_transport` to `celery_sqs.transport:Transport`. This module does not import it, so that programs
without Celery can use `celery_sqs.sqs`.
"""

from celery_sqs.sqs.dead_letters import Reason

__all__ = ["Reason"]
