"""Everything about emails that does not need Celery: messages, rows, sending and callbacks."""
