from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result
    from mypy_boto3_sqs import SQSClient

    from settings import Settings


def test_what_a_crash_left_is_deleted_once(run: Callable[..., Result], left_by_a_crash: str) -> None:
    assert f"would delete {left_by_a_crash}" in run("reap", "--dry-run").output
    assert f"deleted {left_by_a_crash}" in run("reap").output
    assert "0 of " in run("reap").output


def test_the_service_s_own_queues_stay(run: Callable[..., Result], sqs: SQSClient, settings: Settings) -> None:
    run("reap")
    for name in settings.queues:
        assert sqs.get_queue_url(QueueName=name)["QueueUrl"]
