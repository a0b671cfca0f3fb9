"""The app of the standalone worker, which is Celery's own embedded test worker's."""

from __future__ import annotations

import json
import os
from pathlib import Path

from celery.contrib.testing.app import TestApp

# The worker runs in the folder with Celery's tests, whose configuration is t/integration/conftest.py's `celery_config`.
app = TestApp(
    set_as_current=True,
    enable_logging=True,
    config={
        "broker_url": os.environ["TEST_BROKER"],
        "result_backend": os.environ["TEST_BACKEND"],
        "result_extended": True,
        "task_create_missing_queues": False,
        **json.loads(Path("integration-tests-config.json").read_text()),
    },
)
app.set_default()
app.loader.import_task_module("t.integration.tasks")

from t.integration.tasks import ClassBasedAutoRetryTask  # noqa: E402 (a module of Celery's tests, imported above)

app.register_task(ClassBasedAutoRetryTask)
