from __future__ import annotations

import json
from typing import TYPE_CHECKING

import kombu
import pytest
from celery.app.task import Context
from hypothesis import given
from hypothesis import strategies as st

from celery_sqs.raw_queues import to_task_message

if TYPE_CHECKING:
    from tests.celery_sqs.conftest import Queues


@given(body=st.text())
def test_any_body_is_the_tasks_one_argument(body: str) -> None:
    message = to_task_message({"Body": body, "MessageId": "m1"}, "app.bridge")
    args, kwargs, _embed = json.loads(message["body"])
    assert (args, kwargs) == ([body], {})
    assert message["headers"]["task"] == "app.bridge"


def test_the_message_is_exactly_what_celery_s_protocol_2_has() -> None:
    """Workers of other versions of Celery read it too, so no field may change its name or its value."""
    message = to_task_message({"Body": "é", "MessageId": "m1"}, "app.bridge")
    _args, _kwargs, embed = json.loads(message.pop("body"))
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    assert message == {
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": "app.bridge",
            "id": "m1",
            "root_id": "m1",
            "parent_id": None,
            "group": None,
            "argsrepr": "(<body of 2 bytes>,)",
            "kwargsrepr": "{}",
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "origin": "sqs",
            "sqs_attributes": {},
        },
        "properties": {
            "body_encoding": None,
            "correlation_id": "m1",
            "delivery_info": {},
            "delivery_mode": 2,
            "priority": 0,
        },
    }


def test_the_task_id_is_the_message_id_so_that_redelivery_keeps_it() -> None:
    headers = to_task_message({"Body": "x", "MessageId": "m1"}, "app.bridge")["headers"]
    assert headers["id"] == headers["root_id"] == "m1"


def test_the_repr_that_goes_into_logs_and_events_has_no_content() -> None:
    message = to_task_message({"Body": "secret", "MessageId": "m1"}, "app.bridge")
    assert "secret" not in message["headers"]["argsrepr"]


def test_sqs_attributes_are_in_the_headers() -> None:
    attributes = {"SentTimestamp": "1", "ApproximateReceiveCount": "2"}
    message = to_task_message({"Body": "x", "MessageId": "m1", "Attributes": attributes}, "app.bridge")
    assert message["headers"]["sqs_attributes"] == attributes


def test_a_retry_does_not_go_back_to_the_raw_queue() -> None:
    message = to_task_message({"Body": "x", "MessageId": "m1"}, "app.bridge")
    info = message["properties"]["delivery_info"]
    assert not info.get("exchange")
    assert not info.get("routing_key")
    assert Context(delivery_info=info).delivery_info == {}


def string(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def headers_of(attributes: dict[str, dict[str, str]]) -> dict[str, object]:
    message = {"Body": "x", "MessageId": "m1", "MessageAttributes": attributes}
    headers: dict[str, object] = to_task_message(message, "app.bridge")["headers"]
    return headers


def test_the_producers_trace_context_is_in_the_headers() -> None:
    headers = headers_of({"traceparent": string("00-ab-cd-01"), "tracestate": string("vendor=1")})
    assert (headers["traceparent"], headers["tracestate"]) == ("00-ab-cd-01", "vendor=1")


@pytest.mark.parametrize("length", [0, 1, 512, 513])
def test_a_trace_context_that_is_empty_or_too_long_is_left_out(length: int) -> None:
    headers = headers_of({"traceparent": string("0" * length), "tracestate": {"DataType": "String"}})
    assert ("traceparent" in headers) == (1 <= length <= 512)
    assert "tracestate" not in headers


def test_nothing_else_that_a_producer_sends_is_in_the_headers() -> None:
    producers = {"baggage": string("user=ada"), "task": string("another.task"), "retries": string("7")}
    producers |= {"traceparent": string("0" * 513), "tracestate": {"DataType": "Number", "StringValue": "1"}}
    assert headers_of(producers) == headers_of({})


@pytest.mark.parametrize(
    ("dead_letters", "left"), [(False, (0, 0, 0)), (True, (0, 1, 0))], ids=["no redrive policy", "redrive policy"]
)
@pytest.mark.parametrize("body", ['{"email_id": "a"}', "[1]", "no JSON"])
def test_stock_kombu_deletes_a_rejected_raw_body_unless_the_queue_has_a_redrive_policy(
    queues: Queues, body: str, dead_letters: bool, left: tuple[int, int, int]
) -> None:
    """This is why raw queues exist."""
    url = queues.create_queue("stock", dead_letters=dead_letters)
    queues.sqs.send_message(QueueUrl=url, MessageBody=body)
    options = {"region": "us-east-1", "is_secure": False, "queue_name_prefix": queues.prefix, "visibility_timeout": 60}
    queue = kombu.Queue("stock", no_declare=True)
    with (
        kombu.Connection(queues.broker_url(), transport_options=options) as connection,
        connection.Consumer(queue, on_message=lambda message: message.reject(), auto_declare=False),
    ):
        connection.drain_events(timeout=10)
        assert queues.counts("stock") == left
