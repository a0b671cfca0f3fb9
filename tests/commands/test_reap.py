from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_sqs.control_queues import LEASE_TAG, ControlQueues

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result
    from mypy_boto3_sqs import SQSClient

    from settings import Settings


@pytest.fixture
def left(sqs: SQSClient, settings: Settings) -> str:
    """The name of a queue whose owner is gone."""
    crashed = ControlQueues(settings.control_queue_prefix, lambda: sqs, lambda: sqs, {}, {})
    crashed.open("commands", "celery.pidbox", "")
    queue = crashed.get("commands")
    assert queue
    sqs.tag_queue(QueueUrl=queue.url, Tags={LEASE_TAG: "1"})
    return queue.name


def test_what_a_crash_left_is_deleted_once(run: Callable[..., Result], left: str) -> None:
    assert f"would delete {left}" in run("reap", "--dry-run").output
    assert f"deleted {left}" in run("reap").output
    assert "0 of " in run("reap").output


def test_the_service_s_own_queues_stay(run: Callable[..., Result], sqs: SQSClient, settings: Settings) -> None:
    run("reap")
    for name in settings.queues:
        assert sqs.get_queue_url(QueueName=name)["QueueUrl"]
