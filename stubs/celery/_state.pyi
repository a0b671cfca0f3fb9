from typing import Any

from celery.app.task import Task

def get_current_worker_task() -> Task | None: ...

current_app: Any
