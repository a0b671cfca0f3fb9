"""What beat runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_sqs.sqs.queue import queue_url
from settings import get_settings
from tasks.reap import reap

if TYPE_CHECKING:
    import pytest
    from mypy_boto3_sqs import SQSClient

    from settings import Settings


def test_it_deletes_what_a_crash_left(
    settings: Settings, sqs: SQSClient, left_by_a_crash: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMAIL_ENDPOINT_URL", settings.endpoint or "")
    monkeypatch.setenv("EMAIL_STAGE", settings.stage)
    get_settings.cache_clear()
    assert queue_url(sqs, left_by_a_crash)
    reap.run()
    assert queue_url(sqs, left_by_a_crash) is None
