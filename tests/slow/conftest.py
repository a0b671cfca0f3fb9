from tests.celery_sqs.conftest import queues
from tests.email_lambda.conftest import mapping

__all__ = ["mapping", "queues"]
