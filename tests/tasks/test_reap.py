"""The task that beat runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_sqs.sqs.queue import queue_url
from tasks.reap import reap

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


def test_it_deletes_what_a_crash_left(environment: None, sqs: SQSClient, left_by_a_crash: str) -> None:
    assert queue_url(sqs, left_by_a_crash)
    reap.run()
    assert queue_url(sqs, left_by_a_crash) is None
