"""The Celery app."""

import sys

from celery import Celery

INCLUDE = ("tasks.callbacks", "tasks.logs", "tasks.pause", "tasks.pipeline", "tasks.reap", "tasks.start")
app = Celery("tasks", task_cls="tasks.task:Task", include=INCLUDE)
# Celery gets the module's dictionary. It looks up many defaults for each email, and they are in neither, but a module
# takes much longer to say so.
app.config_from_object("celeryconfig:__dict__")

# Celery's command line loads Flower's command before this module. Other programs save a second of imports.
if "flower.command" in sys.modules:
    from tasks import flower

    flower.install()
