"""Raw queues, whose messages other programs write: each body becomes the only argument of a task.

The transport option `raw_queues` maps a queue's name to the name of that task. Somebody who may send to the queue can
start that task and nothing else, because a body that looks like a Celery message is treated as data, too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# The names are W3C Trace Context's. Baggage is left out: it is the producer's data, and nothing here uses it.
TRACE_CONTEXT = ("traceparent", "tracestate")
TRACE_CONTEXT_CHARACTERS = 512  # the longest value of either that OpenTelemetry's propagator reads


def to_task_message(message: dict[str, Any], task: str) -> dict[str, Any]:
    """Return a Celery protocol-2 message for the task, in the form that kombu's virtual transports use.

    The task's id is the SQS MessageId, which stays the same when SQS redelivers the message. The delivery_info names
    no queue, so that a retry goes where the task is routed and not back to the raw queue (`Task.retry` reuses the
    incoming routing). The reprs of the arguments contain no content, because they go into logs and events.

    If the producer sent a trace context as String message attributes, it is in the headers under W3C's names, where
    OpenTelemetry's instrumentation of Celery looks for it. It is untrusted input, and only to be parsed.

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
