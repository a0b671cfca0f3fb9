"""The suites, and one run of one of them in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.peer_suites.sources import CACHE, ROOT, unpacked

if TYPE_CHECKING:
    from pathlib import Path

# No test and no fixture takes longer (the plugin's time-out), so a process that says nothing for so long hangs in a
# place that no time-out reaches, its exit for example.
SILENT_SECONDS = 420

BROKERS = ("ours", "stock", "redis")


@dataclass(frozen=True)
class Suite:
    name: str
    distribution: str
    file: str
    worker: str = ""  # embedded or standalone, for Celery's
    redis_file: str = ""  # what is run instead where Redis is the broker


def _celery(test: str, worker: str) -> Suite:
    file = f"t/integration/test_{test}.py"
    return Suite(f"celery-{test}-{worker}", "celery", file, worker, redis_file=file)


SUITES = [
    Suite("kombu-unit", "kombu", "t/unit/transport/SQS/test_SQS.py"),
    Suite("kombu-unit-sns", "kombu", "t/unit/transport/SQS/test_SQS_SNS.py"),
    Suite("kombu-unit-delay", "kombu", "t/unit/transport/SQS/test_SQS_delay.py"),
    Suite("kombu-integration", "kombu", "t/integration/test_sqs.py", redis_file="t/integration/test_redis.py"),
    *(_celery(test, worker) for worker in ("embedded", "standalone") for test in ("inspect", "tasks", "canvas")),
]


@dataclass
class Results:
    """What became of each test of a suite."""

    passed: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)  # with the last line of the failure
    seconds: float = 0


@dataclass(frozen=True)
class Services:
    sqs: str
    redis_port: int

    def environment(self, broker: str) -> dict[str, str]:
        address = f"127.0.0.1:{self.redis_port}"
        sqs = urlsplit(self.sqs)
        return {
            "TEST_BROKER": f"redis://{address}/1" if broker == "redis" else f"sqs://test:test@{sqs.netloc}",
            "TEST_BACKEND": f"redis://{address}/0",
            "WORKER_LOGLEVEL": "INFO",  # of the embedded worker, whose log Celery's tests read
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self.redis_port),
            "REDIS_6379_TCP": str(self.redis_port),
            "SQS_HOST": str(sqs.hostname),
            "SQS_PORT": str(sqs.port),
        }


def run(suite: Suite, broker: str, services: Services, selected: str = "") -> Results:
    """Run the suite's file, and read what the plugin wrote."""
    folder = unpacked(suite.distribution)
    (folder / "integration-tests-config.json").write_text(json.dumps(_celery_config(broker)))
    reports = CACHE / "reports" / broker
    reports.mkdir(parents=True, exist_ok=True)
    written = reports / f"{suite.name}.jsonl"
    written.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "tests.peer_suites.plugin", "-p", "no:cacheprovider", "-v"]
    if suite.distribution == "celery":
        command += ["-p", "celery.contrib.pytest"]
    if selected:
        command += ["-k", selected]
    started = time.monotonic()
    with (reports / f"{suite.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, suite.redis_file if broker == "redis" else suite.file],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EMAIL_"))}
            | services.environment(broker)
            | {
                "PYTHONPATH": f"{ROOT}:{folder}",
                "PEER_BROKER": broker,
                "PEER_RESULTS": str(written),
                "PEER_WORKER": suite.worker,
                "PEER_WORKER_LOG": str(reports / f"{suite.name}.worker.log"),
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        exited = _wait(process, written)
    return read(written, exited=exited, seconds=time.monotonic() - started)


def _celery_config(broker: str) -> dict[str, Any]:
    """What Celery's tests add to their configuration (t/integration/conftest.py)."""
    if broker == "redis":
        return {}
    options = {"region": "us-east-1", "is_secure": False, "queue_name_prefix": f"{uuid.uuid4().hex[:8]}-"}
    config: dict[str, Any] = {"broker_transport_options": options}
    if broker == "ours":
        config["broker_transport"] = "celery_sqs.transport:Transport"
    return config


def _wait(process: subprocess.Popen[bytes], written: Path) -> bool:
    """Wait for the end of the process, as long as it writes; say whether it ended."""
    last_written = time.monotonic()
    size = 0
    try:
        while process.poll() is None and time.monotonic() < last_written + SILENT_SECONDS:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            if written.exists() and written.stat().st_size > size:
                size, last_written = written.stat().st_size, time.monotonic()
        return process.poll() is not None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
        process.wait()


def read(written: Path, *, exited: bool, seconds: float = 0) -> Results:
    results = Results(seconds=seconds)
    collected: list[str] = []
    finished = False
    for line in map(json.loads, written.read_text().splitlines() if written.exists() else ()):
        collected = line.get("collected", collected)
        finished = line.get("finished", finished)
        outcome, test = line.get("outcome"), line.get("test")
        if outcome == "failed":
            results.failed.setdefault(test, line["what"])
        elif outcome == "skipped":
            results.skipped.add(test)
        elif outcome == "passed":
            results.passed.add(test)
    results.skipped -= results.failed.keys()
    results.passed -= results.failed.keys() | results.skipped
    reported = results.passed | results.skipped | results.failed.keys()
    results.failed |= {test: "it did not run" for test in collected if test not in reported}
    if not collected:
        results.failed["(collection)"] = "no test was collected"
    if not finished or not exited:
        results.failed["(exit)"] = "the process was killed, because nothing came from it any more"
    return results
