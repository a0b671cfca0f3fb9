"""For `celery worker --include`: sets a read time-out that is shorter than some of the fault proxy's hangs."""

from celery_sqs import clients

clients.CLIENT_CONFIG["read_timeout"] = 4  # longer than the tests' WAIT_TIME_SECONDS
