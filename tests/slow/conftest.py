from tests.celery_sqs.conftest import queues

__all__ = ["queues"]
