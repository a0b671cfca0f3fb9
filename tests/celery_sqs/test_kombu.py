"""What celery_sqs uses of kombu and Celery that they do not document: why both are held to minor versions."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import billiard
import celery
import kombu
import pytest
from celery import _state, bootsteps, platforms
from celery.app.task import Task
from celery.concurrency.base import BasePool
from celery.events.event import EVENT_EXCHANGE_NAME
from celery.events.receiver import EventReceiver
from celery.worker import state as worker_state
from celery.worker.consumer.consumer import Consumer
from celery.worker.control import Panel
from celery.worker.request import Request, create_request_cls
from kombu import compression as kombus_compression
from kombu.asynchronous.hub import Hub
from kombu.pidbox import Mailbox
from kombu.transport import SQS, virtual

from celery_sqs import compression
from celery_sqs.patches import celery as celery_patches

PRIVATE: dict[Any, list[str]] = {
    SQS.Channel: [
        "_decode_python_message_body",
        "_delete",
        "_envelope_payload",
        "_handle_sts_session",
        "_new_boto_client",
        "_new_queue",
        "_put_fanout",
        "_noack_queues",
        "_prepare_json_payload",
        "_queue_cache",
        "_resolve_delay_seconds",
        "_resolve_queue_url",
        "_update_queue_cache",
        "after_reply_message_received",
        "canonical_queue_name",
        "conninfo",
        "endpoint_url",
        "predefined_queues",
        "region",
        "sqs",
        "sqs_base64_encoding",
        "visibility_timeout",
        "wait_time_seconds",
    ],
    SQS.QoS: ["is_backoff_task"],
    virtual.Message: ["_decode", "ack", "errors", "reject"],
    virtual.QoS: ["_delivered", "_dirty", "restore_unacked_once"],
    virtual.Channel: [
        "_inplace_augment_message",
        "_put",
        "basic_publish",
        "decode_body",
        "queue_bind",
        "queue_declare",
        "queue_delete",
    ],
    virtual.Transport: ["_deliver", "close_channel", "close_connection"],
    worker_state: ["active_requests", "reserved_requests", "should_stop", "should_terminate", "task_ready"],
    bootsteps: ["RUN"],
    platforms: ["EX_FAILURE"],
    billiard: ["active_children"],
    Hub: ["call_repeatedly"],
    Task: ["Request"],
    Consumer: ["on_decode_error", "on_unknown_message"],
    Request: [
        "cancel",
        "execute_using_pool",
        "info",
        "on_accepted",
        "on_failure",
        "reject",
        "revoked",
        "time_limits",
    ],
    BasePool: ["apply_async", "num_processes", "terminate_job", "uses_semaphore"],
    Mailbox: ["oid", "reply_exchange_fmt"],
    EventReceiver: ["wakeup_workers"],
}


@pytest.mark.parametrize(("owner", "names"), PRIVATE.items(), ids=[owner.__name__ for owner in PRIVATE])
def test_what_is_used_is_there(owner: object, names: list[str]) -> None:
    assert [name for name in names if not hasattr(owner, name)] == []


def test_the_signatures_that_are_overridden_are_as_they_were() -> None:
    signatures = {
        SQS.Channel._handle_sts_session: "(self, queue: 'str', q)",
        SQS.Channel._put: "(self, queue, message, **kwargs)",
        SQS.Channel._update_queue_cache: "(self, queue_name_prefix)",
        SQS.Channel._resolve_queue_url: "(self, queue)",
        SQS.Channel._envelope_payload: "(self, payload, raw_text, message, q_url)",
        SQS.Channel._prepare_json_payload: "(self, text)",
        celery_patches._celerys_on_decode_error: "(self, message, exc)",
        celery_patches._celerys_on_unknown_message: "(self, body, message)",
        Request.execute_using_pool: "(self, pool: celery.concurrency.base.BasePool, **kwargs)",
        Request.on_accepted: "(self, pid, time_accepted)",
        Request.reject: "(self, requeue=False)",
        Request.on_failure: "(self, exc_info, send_failed_event=True, return_ok=False)",
    }
    assert {method: str(inspect.signature(method)) for method in signatures} == signatures


def test_every_method_of_kombus_is_one_that_we_bound() -> None:
    assert set(kombus_compression._decoders.values()) == set(compression._BOUNDED)


def test_the_class_that_celery_derives_for_each_task_overrides_what_it_did() -> None:
    task, pool = (
        SimpleNamespace(time_limit=None, soft_time_limit=None, acks_late=True),
        SimpleNamespace(apply_async=None),
    )
    derived = create_request_cls(Request, task, pool, "host", None, app=SimpleNamespace(use_fast_trace_task=True))
    assert derived.__module__ == Request.__module__
    assert {"execute_using_pool", "on_success"} == {name for name in vars(derived) if not name.startswith("__")}


def test_the_commands_that_are_answered_otherwise_are_there() -> None:
    assert {"pool_grow", "pool_shrink", "autoscale", "time_limit", "terminate", "revoke"} <= Panel.data.keys()


def test_the_names_of_the_exchanges_are_as_they_were() -> None:
    assert (EVENT_EXCHANGE_NAME, Mailbox.exchange_fmt) == ("celeryev", "%s.pidbox")
    assert Mailbox.reply_exchange_fmt == "reply.%s.pidbox"


def test_the_current_task_and_app_are_found() -> None:
    assert _state.get_current_worker_task() is None
    assert hasattr(_state, "current_app")


def test_the_versions_are_those_that_this_passed_on() -> None:
    assert (kombu.__version__.rsplit(".", 1)[0], celery.__version__.rsplit(".", 1)[0]) == ("5.7", "5.7")
