"""Queues whose bodies Celery did not write: each body becomes the argument of one task, whatever it is.

The transport option `raw_queues` maps a queue's name to that task's name. Whoever may send to the queue can start that
task and nothing else: a body that looks like a Celery message is data too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# W3C Trace Context. No baggage: it is data of the producer's, for which nothing here has a use.
TRACE_CONTEXT = ("traceparent", "tracestate")
TRACE_CONTEXT_CHARACTERS = 512  # the most that OpenTelemetry's propagator reads of either


def to_task_message(message: dict[str, Any], task: str) -> dict[str, Any]:
    """A Celery protocol-2 message for the task, as kombu's virtual transports have it in memory.

    The task's id is the SQS MessageId, which redelivery keeps. Its delivery_info names no queue, so that a retry goes
    where the task is routed and not back to the raw queue (`Task.retry` reuses the incoming routing). Its repr shows no
    content, since reprs go into logs and events.

    The producer's trace context, where it sent one as String message attributes, is in the headers under W3C's names,
    as OpenTelemetry's instrumentation of Celery puts and reads it. It is the producer's word, to be parsed and no more.

    Source: Celery's "Message Protocol", version 2.
    """
    body, message_id = message["Body"], message["MessageId"]
    return {
        "body": json.dumps([[body], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": message_id,
            "root_id": message_id,
            "parent_id": None,
            "group": None,
            "argsrepr": f"(<body of {len(body.encode(errors='surrogatepass'))} bytes>,)",
            "kwargsrepr": "{}",
            "retries": 0,
            "eta": None,
            "expires": None,
            "timelimit": [None, None],
            "origin": "sqs",
            "sqs_attributes": message.get("Attributes", {}),
            **_trace_context(message.get("MessageAttributes", {})),
        },
        "properties": {
            "body_encoding": None,
            "correlation_id": message_id,
            "delivery_info": {},
            "delivery_mode": 2,
            "priority": 0,
        },
    }


def _trace_context(attributes: Mapping[str, Any]) -> dict[str, str]:
    values = {
        name: attributes[name].get("StringValue", "")
        for name in TRACE_CONTEXT
        if name in attributes and attributes[name].get("DataType") == "String"
    }
    return {name: value for name, value in values.items() if 0 < len(value) <= TRACE_CONTEXT_CHARACTERS}
