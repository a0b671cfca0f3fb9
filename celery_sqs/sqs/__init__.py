"""The part that needs boto3 alone: neither kombu nor Celery is imported here."""
