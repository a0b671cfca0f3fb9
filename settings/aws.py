"""Every boto3 client of ours."""

from __future__ import annotations

import os
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, overload

import boto3
from botocore.config import Config

from settings.model import LOCAL_ACCESS_KEY, LOCAL_REGION

if TYPE_CHECKING:
    from typing import Any, Literal

    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sqs import SQSClient

    from settings.model import Settings

CONNECT_TIMEOUT = 2.0
READ_TIMEOUT = 10.0
ATTEMPTS = 3


@overload
def client(service: Literal["sqs"], settings: Settings) -> SQSClient: ...
@overload
def client(service: Literal["dynamodb"], settings: Settings) -> DynamoDBClient: ...
@overload
def client(service: Literal["cloudwatch"], settings: Settings) -> CloudWatchClient: ...
@overload
def client(service: Literal["s3"], settings: Settings) -> S3Client: ...
@overload
def client(service: Literal["sesv2"], settings: Settings, *, read_timeout: float, attempts: int) -> SESV2Client: ...
def client(
    service: Literal["sqs", "dynamodb", "cloudwatch", "s3", "sesv2"],
    settings: Settings,
    *,
    read_timeout: float = READ_TIMEOUT,
    attempts: int = ATTEMPTS,
) -> Any:
    """A thread-safe client; boto3's own credential chain, but for the local endpoint."""
    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # boto3's default of 10 connections churns under 16 threads.
        max_pool_connections=settings.concurrency + 4,
        tcp_keepalive=True,
        # Both save CPU on every call (bench): building the user agent anew, and checking what the type checker has.
        user_agent="email-service",
        parameter_validation=False,
    )
    with _making:
        return _session(**session_options(settings)).client(service, endpoint_url=settings.endpoint, config=config)


def session_options(settings: Settings) -> dict[str, str]:
    if not settings.is_local:
        return {"region_name": settings.region}
    key = {"aws_access_key_id": LOCAL_ACCESS_KEY, "aws_secret_access_key": LOCAL_ACCESS_KEY}
    return {"region_name": LOCAL_REGION, **key}


# Most of what a client costs is its session's reading of service models. A session is not thread-safe (boto3 guide,
# "Session"), the clients are.
_session = cache(boto3.Session)
_making = Lock()
# A process that is forked while another thread makes a client would wait for that thread for ever.
os.register_at_fork(after_in_child=lambda: globals().update(_making=Lock()))
