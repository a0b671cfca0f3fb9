"""The pipeline as AWS Lambda functions. They get their messages from SQS, and do not need Celery."""
