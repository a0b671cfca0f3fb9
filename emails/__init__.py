"""An email, without Celery: its message, its row, its delivery."""
