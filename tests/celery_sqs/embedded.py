"""Runs a worker within a program, as Celery's test support does: `python embedded.py POOL TASK...`.

It runs each task, waits until the journal has a line from each, and stops the worker.
"""

from __future__ import annotations

import sys
import time

from celery.contrib.testing.worker import start_worker
from testapp import JOURNAL, app

pool, *names = sys.argv[1:]
with start_worker(app, pool=pool, concurrency=2, perform_ping_check=False, shutdown_timeout=30, queues=["tasks"]):
    for number, name in enumerate(names):
        app.send_task(name, [f"{name} {number}", 0.0])
    while any(f"end {name} {number}" not in JOURNAL.read_text() for number, name in enumerate(names)):
        time.sleep(0.02)
