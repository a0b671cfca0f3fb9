"""Celery on SQS: a kombu transport. Knows nothing of the project around it.

`celery_sqs.transport:Transport` is the setting `broker_transport`. It is not imported here: the batching serves
programs that have no Celery, too.
"""

from celery_sqs.sqs.dead_letters import Reason

__all__ = ["Reason"]
