"""What celery_sqs uses of kombu and Celery that they do not document: why both are held to minor versions."""

from __future__ import annotations

import inspect

import celery
import kombu
import pytest
from celery import _state
from celery.app.task import Task
from celery.concurrency.base import BasePool
from celery.worker.request import Request
from kombu.transport import SQS, virtual

PRIVATE = {
    SQS.Channel: [
        "_decode_python_message_body",
        "_new_boto_client",
        "_new_queue",
        "_noack_queues",
        "_queue_cache",
        "_resolve_delay_seconds",
        "_resolve_queue_url",
        "_subscribe_queue_to_fanout_exchange_if_required",
        "_update_queue_cache",
        "canonical_queue_name",
        "predefined_queues",
        "sqs",
        "sqs_base64_encoding",
        "visibility_timeout",
        "wait_time_seconds",
    ],
    SQS.QoS: ["is_backoff_task"],
    virtual.QoS: ["_delivered", "_dirty", "restore_unacked_once"],
    virtual.Channel: ["_put", "decode_body"],
    virtual.Transport: ["_deliver", "close_channel", "close_connection"],
    Task: ["Request"],
    Request: ["on_accepted", "on_failure", "reject", "revoked"],
    BasePool: ["uses_semaphore"],
}


@pytest.mark.parametrize(("owner", "names"), PRIVATE.items(), ids=[f"{o.__module__}.{o.__name__}" for o in PRIVATE])
def test_what_is_used_is_there(owner: type, names: list[str]) -> None:
    assert [name for name in names if not hasattr(owner, name)] == []


def test_the_signatures_that_are_overridden_are_as_they_were() -> None:
    signatures = {
        SQS.Channel._put: "(self, queue, message, **kwargs)",
        SQS.Channel._update_queue_cache: "(self, queue_name_prefix)",
        SQS.Channel._resolve_queue_url: "(self, queue)",
        Request.on_accepted: "(self, pid, time_accepted)",
        Request.on_failure: "(self, exc_info, send_failed_event=True, return_ok=False)",
    }
    assert {method: str(inspect.signature(method)) for method in signatures} == signatures


def test_the_current_task_is_found() -> None:
    assert _state.get_current_task() is None


def test_the_versions_are_those_that_this_passed_on() -> None:
    assert (kombu.__version__.rsplit(".", 1)[0], celery.__version__.rsplit(".", 1)[0]) == ("5.7", "5.7")
