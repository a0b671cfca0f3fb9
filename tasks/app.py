"""The Celery app."""

from celery import Celery

app = Celery("tasks", include=["tasks.pipeline", "tasks.start"])
app.config_from_object("celeryconfig")
