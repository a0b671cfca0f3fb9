"""The Celery app and its tasks: `celery -A tasks worker`."""

from tasks.app import app

__all__ = ["app"]
