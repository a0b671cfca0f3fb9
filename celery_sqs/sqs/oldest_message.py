"""How old the oldest message of a queue is, which SQS tells to CloudWatch alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_cloudwatch.type_defs import MetricDataQueryTypeDef

# CloudWatch's figure comes a few minutes late, and not at all for a queue that nobody used for six hours (SQS Developer
# Guide, "Available CloudWatch metrics for Amazon SQS").
WINDOW = timedelta(minutes=15)
MAX_QUEUES = 500  # queries of one GetMetricData


def ages_of_oldest_messages(cloudwatch: CloudWatchClient, queues: Sequence[str]) -> dict[str, float]:
    """Seconds, by queue; without those that CloudWatch does not tell, or may not be asked for."""
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
    try:
        answer = cloudwatch.get_metric_data(MetricDataQueries=queries, StartTime=now - WINDOW, EndTime=now)
    except (BotoCoreError, ClientError):
        return {}  # not permitted, or an endpoint that has SQS alone: no figure says enough
    newest = {
        result["Id"]: max(zip(result["Timestamps"], result["Values"], strict=True))[1]
        for result in answer["MetricDataResults"]
        if result["Values"]
    }
    return {name: newest[f"queue{index}"] for index, name in enumerate(queues) if f"queue{index}" in newest}
