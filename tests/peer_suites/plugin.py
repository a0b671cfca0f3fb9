"""A pytest plugin that points the peers' suites at celery_sqs, and writes each test's outcome for the runner.

The runner sets the environment variables. Nothing of the suites is changed: what they name `sqs`, or take from
`kombu.transport.SQS`, is our transport.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery

TIMEOUT_SECONDS = 240  # the slowest of Celery's tests waits for 150 s in all
STOP_SECONDS = 30


def pytest_configure() -> None:
    if os.environ["PEER_BROKER"] == "ours":
        _put_our_transport_into_kombu()
    if os.environ.get("PEER_WORKER") == "standalone":
        from celery.contrib.testing import worker  # noqa: PLC0415 (only after kombu has our transport)

        worker.start_worker = _standalone_worker


def _put_our_transport_into_kombu() -> None:
    from kombu import transport  # noqa: PLC0415 (only for our transport)
    from kombu.transport import SQS  # noqa: PLC0415 (the same)

    from celery_sqs.channel import Channel, QoS  # noqa: PLC0415 (the same)
    from celery_sqs.transport import Transport  # noqa: PLC0415 (the same)

    transport.TRANSPORT_ALIASES["sqs"] = "celery_sqs.transport:Transport"
    SQS.Transport, SQS.Channel, SQS.QoS = Transport, Channel, QoS


def _complete(double: Any) -> None:
    """Give kombu's double of an SQS client what kombu's own transport does not call, or nearly no test could begin."""
    from celery_sqs.poller import Poller  # noqa: PLC0415 (only for our transport)

    receive_message = double.receive_message

    def get_queue_url(self: Any, QueueName: str) -> dict[str, str]:  # noqa: N803 (boto3's name)
        if QueueName not in self._queues:
            raise ClientError({"Error": {"Code": "AWS.SimpleQueueService.NonExistentQueue"}}, "GetQueueUrl")
        return {"QueueUrl": self._queues[QueueName].url}

    def receive(self: Any, *, VisibilityTimeout: int = 0, **options: Any) -> Any:  # noqa: N803 (as above)
        return receive_message(self, **options)

    double.get_queue_url, double.receive_message = get_queue_url, receive
    # It answers an empty long poll at once, and a thread that receives would take what the tests ask for.
    Poller.start = lambda _: None


@contextmanager
def _standalone_worker(app: Celery, pool: str, concurrency: int = 1, **_: object) -> Iterator[None]:
    """Stand in for `celery.contrib.testing.worker.start_worker`: a process of its own, started by Celery's command."""
    from celery.contrib.testing.tasks import ping  # noqa: PLC0415 (a task of the app that is current now)
    from celery.contrib.testing.worker import setup_app_for_worker  # noqa: PLC0415 (as above)
    from celery.result import allow_join_result  # noqa: PLC0415 (as above)
    from celery.utils.nodenames import anon_nodename  # noqa: PLC0415 (as above)

    setup_app_for_worker(app, "error", None)
    options = ["--loglevel=INFO", f"--hostname={anon_nodename()}", f"--pool={pool}", f"--concurrency={concurrency}"]
    as_embedded = ["--without-heartbeat", "--without-mingle", "--without-gossip"]
    with Path(os.environ["PEER_WORKER_LOG"]).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tests.peer_suites.worker_app", "worker", *options, *as_embedded],
            stdout=log,
            stderr=log,
        )
    try:
        with allow_join_result():
            assert ping.delay().get(timeout=60) == "pong"
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _ask_for_nothing_when_connecting() -> None:
    """In unit tests: the request takes a client with short time-outs, which no double of kombu's stands for."""
    from celery_sqs.channel import Channel  # noqa: PLC0415 (only for our transport)

    Channel.check_connection = lambda _: None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ["PEER_BROKER"] == "ours" and any("unit" in item.path.parts for item in items):
        _ask_for_nothing_when_connecting()
    for double in {getattr(item.module, "SQSClientMock", None) for item in items} - {None}:
        if os.environ["PEER_BROKER"] == "ours":
            _complete(double)
    for item in items:
        item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS), append=False)


def pytest_collection_finish(session: pytest.Session) -> None:
    _write(collected=[_name(item.nodeid) for item in session.items])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _write(test=_name(report.nodeid), outcome=report.outcome, what=_message(report))


def pytest_sessionfinish() -> None:
    _write(finished=True)


def _message(report: pytest.TestReport) -> str:
    """What the last exception says, in one line."""
    lines = [line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return lines[0] if lines else report.longreprtext.strip().rpartition("\n")[2]


def _name(node_id: str) -> str:
    return node_id.partition("::")[2]


def _write(**line: Any) -> None:
    with Path(os.environ["PEER_RESULTS"]).open("a") as results:
        results.write(json.dumps(line) + "\n")
