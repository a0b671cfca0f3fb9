"""The pipeline as AWS Lambda functions: SQS hands them the messages, and they need no Celery."""
