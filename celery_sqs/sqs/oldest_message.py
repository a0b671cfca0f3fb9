"""The age of a queue's oldest message, which SQS reports only to CloudWatch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cloudwatch.type_defs import MetricDataQueryTypeDef

# CloudWatch's figure is a few minutes late, and missing for a queue that nobody has used for six hours (SQS Developer
# Guide, "Available CloudWatch metrics for Amazon SQS").
WINDOW = timedelta(minutes=15)
MAX_QUEUES = 500  # the most queries in one GetMetricData request


def ages_of_oldest_messages(cloudwatch: CloudWatchClient, queues: Sequence[str]) -> dict[str, float]:
    """Return what `read_ages` does, or {} if CloudWatch cannot be asked. A missing figure shows that well enough."""
    try:
        return read_ages(cloudwatch, queues)
    except (BotoCoreError, ClientError):
        return {}  # access is denied, or the endpoint has only SQS


def read_ages(cloudwatch: CloudWatchClient, queues: Sequence[str]) -> dict[str, float]:
    """Return the age of the oldest message in seconds, by queue.

    Queues are left out if CloudWatch has no figure for them, and beyond the first 500. Raises botocore's errors.
    """
    now = datetime.now(UTC)
    queries: list[MetricDataQueryTypeDef] = [
        {
            "Id": f"queue{index}",
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/SQS",
                    "MetricName": "ApproximateAgeOfOldestMessage",
                    "Dimensions": [{"Name": "QueueName", "Value": name}],
                },
                "Period": 60,
                "Stat": "Maximum",
            },
        }
        for index, name in enumerate(queues[:MAX_QUEUES])
    ]
    answer = cloudwatch.get_metric_data(MetricDataQueries=queries, StartTime=now - WINDOW, EndTime=now)
    newest = {
        result["Id"]: max(zip(result["Timestamps"], result["Values"], strict=True))[1]
        for result in answer["MetricDataResults"]
        if result["Values"]
    }
    return {name: newest[f"queue{index}"] for index, name in enumerate(queues) if f"queue{index}" in newest}
