"""The Celery app."""

import sys

from celery import Celery

INCLUDE = ("tasks.callbacks", "tasks.logs", "tasks.pause", "tasks.pipeline", "tasks.reap", "tasks.start")
app = Celery("tasks", task_cls="tasks.task:Task", include=INCLUDE)
# Celery gets the module's dictionary instead of the module. For each email, it looks up several settings that
# celeryconfig does not have, and a missing attribute of a module costs two exceptions.
app.config_from_object("celeryconfig:__dict__")

# Celery's command line loads Flower's command before this module. Other programs save a second of imports.
if "flower.command" in sys.modules:
    from tasks import flower

    flower.install()
