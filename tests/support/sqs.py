"""Functions for the emulator's SQS, and for CloudWatch's metrics of its queues."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3

from celery_sqs.control_queues import ControlQueues
from celery_sqs.sqs.leased_queues import LEASE_TAG

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


def emulator_client(service: Any, endpoint: str, **options: Any) -> Any:
    """Return a client of the emulator that does not use the service's settings."""
    local = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=endpoint, **local, **options)


def message_counts(sqs: SQSClient, queue_url: str) -> tuple[int, int, int]:
    """Return how many messages of a queue are visible, in flight and delayed."""
    attributes: Any = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    visible, in_flight, delayed = (
        int(attributes[f"ApproximateNumberOfMessages{kind}"]) for kind in ("", "NotVisible", "Delayed")
    )
    return visible, in_flight, delayed


def leave_control_queue(sqs: SQSClient, prefix: str) -> str:
    """Create a control queue as a crashed process leaves it, with an expired lease, and return its name."""
    control_queues = ControlQueues(prefix, lambda: sqs, lambda: sqs, {}, {})
    control_queues.open("commands", "celery.pidbox", "")
    queue = control_queues.get("commands")
    assert queue
    sqs.tag_queue(QueueUrl=queue.url, Tags={LEASE_TAG: "1"})
    return queue.name


def report_age(endpoint: str, queue: str, seconds: float, at: datetime | None = None) -> None:
    """Tell CloudWatch how old the queue's oldest message is, as SQS does but the emulator does not."""
    figure: Any = {
        "MetricName": "ApproximateAgeOfOldestMessage",
        "Dimensions": [{"Name": "QueueName", "Value": queue}],
        "Timestamp": at or datetime.now(UTC),
        "Value": seconds,
    }
    cloudwatch = emulator_client("cloudwatch", endpoint)
    cloudwatch.put_metric_data(Namespace="AWS/SQS", MetricData=[figure])
    cloudwatch.close()
