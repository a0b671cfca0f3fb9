"""SQS queues and batches, on top of boto3. Nothing here imports kombu or Celery."""
