from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from celery_sqs.log import PERIOD_SECONDS, OnceAMinute

if TYPE_CHECKING:
    import pytest


def test_an_error_is_said_once_a_minute_with_how_often_it_came(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    complain = OnceAMinute(logging.getLogger("test"))
    for number in range(5):
        complain("cannot receive: %s", number)
    complain("something else")
    assert [record.getMessage() for record in caplog.records] == ["cannot receive: 0", "something else"]
    now += PERIOD_SECONDS
    complain("cannot receive: %s", 9)
    assert [record.getMessage() for record in caplog.records][2:] == [
        "cannot receive: 9",
        "the same happened 4 more times since it was last logged",
    ]
