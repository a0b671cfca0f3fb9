"""Every Celery setting that differs from the default, with the reason."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

from kombu import Exchange, Queue

from settings import get_settings
from settings.model import LOCAL_ACCESS_KEY, LOCAL_REGION

# This file must not import boto3: gevent's patching makes Celery read it, and botocore must be imported after that.

_settings = get_settings()
_endpoint = urlsplit(_settings.endpoint or "")
_credentials = f"{quote(LOCAL_ACCESS_KEY)}:{quote(LOCAL_ACCESS_KEY)}@" if _settings.is_local else ""

# Where and how messages travel. Only SQS is used: nobody waits for a task's result, so there is no result backend.
broker_url = f"sqs://{_credentials}{_endpoint.netloc}"
broker_transport = "celery_sqs.transport:Transport"
broker_transport_options = {
    "region": LOCAL_REGION if _settings.is_local else _settings.region,
    "is_secure": _endpoint.scheme != "http",
    "visibility_timeout": _settings.visibility_timeout,
    "wait_time_seconds": 20,  # the longest that SQS allows; every idle poll is a request
    "raw_queues": {
        **dict.fromkeys(_settings.raw_queues, "tasks.bridge"),
        _settings.callbacks_queue: "tasks.record_callback",
    },
    "control_queue_prefix": _settings.control_queue_prefix,
    "liveness_file": str(_settings.liveness_file or ""),
    # Our messages are JSON already. Base64, which is applied twice by default, would cost a third of every message.
    "sqs_base64_encoding": False,
    "body_encoding": "utf-8",
    # Our messages only hold an id, so they are not worth compressing, and a compressed message is not ours.
    "accept_compression": False,
}
broker_connection_retry_on_startup = True  # a broker that is unavailable for a moment is no reason to exit

# `provision` creates the queues with their dead-letter queues. A worker would create queues without them.
task_create_missing_queues = False
task_queues = [
    # Bulk emails that have been started are on the tasks queue. The others wait until no other message is left.
    Queue(name, Exchange(""), name, consumer_arguments={"x-priority": -1 if name == _settings.bulk_queue else 0})
    for name in _settings.queues
]
task_default_queue = _settings.tasks_queue
task_default_exchange = ""
task_default_routing_key = _settings.tasks_queue

# A message is deleted only when its task is done, however the worker ends. If a task raises, its message becomes a dead
# letter and is not lost.
task_acks_late = True
task_reject_on_worker_lost = True
task_acks_on_failure = False
task_acks_on_timeout = False

task_serializer = "json"
accept_content = ["json"]  # pickle would run code from a message
result_accept_content = ["json"]
task_ignore_result = True

# Sending is mostly waiting. Threads share one client, one connection pool and batches, but prefork's processes cannot.
worker_pool = "threads"
worker_concurrency = _settings.concurrency
worker_prefetch_multiplier = 2  # start.py raises it for small pools, because SQS returns 10 messages at a time

# Events cost nothing unless somebody watches them, with Flower or `celery -A tasks events`.
worker_send_task_events = True
