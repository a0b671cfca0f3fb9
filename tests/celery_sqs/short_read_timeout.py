"""For `celery worker --include`: a client that gives up before some of the fault proxy's hangs end."""

from celery_sqs import clients

clients.CLIENT_CONFIG["read_timeout"] = 4  # above the tests' WAIT_TIME_SECONDS
