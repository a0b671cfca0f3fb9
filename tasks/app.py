"""The Celery app."""

from celery import Celery

app = Celery("tasks", task_cls="celery_sqs:Task", include=["tasks.pipeline", "tasks.start"])
app.config_from_object("celeryconfig")
