"""Creates every boto3 client that the service uses."""

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
def client(
    service: Literal["sqs"], settings: Settings, *, read_timeout: float = ..., attempts: int = ...
) -> SQSClient: ...
@overload
def client(
    service: Literal["dynamodb"], settings: Settings, *, read_timeout: float = ..., attempts: int = ...
) -> DynamoDBClient: ...
@overload
def client(service: Literal["cloudwatch"], settings: Settings) -> CloudWatchClient: ...
@overload
def client(service: Literal["s3"], settings: Settings) -> S3Client: ...
@overload
def client(
    service: Literal["lambda", "secretsmanager", "sts"], settings: Settings
) -> Any: ...  # their stubs are not installed
@overload
def client(service: Literal["sesv2"], settings: Settings, *, read_timeout: float, attempts: int) -> SESV2Client: ...
def client(
    service: Literal["sqs", "dynamodb", "cloudwatch", "lambda", "s3", "secretsmanager", "sesv2", "sts"],
    settings: Settings,
    *,
    read_timeout: float = READ_TIMEOUT,
    attempts: int = ATTEMPTS,
) -> Any:
    """Return a thread-safe boto3 client.

    Credentials come from boto3's usual chain, except in the region `localstack`, which gets dummy ones. `read_timeout`
    is in seconds, and `attempts` includes the first one.
    """
    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        # With boto3's default of 10, 32 threads would keep closing and opening connections.
        max_pool_connections=settings.concurrency + 4,
        tcp_keepalive=True,
        # Each of these saves CPU on every call, as the bench shows: botocore does not build the user agent again, and
        # does not check parameters that the type checker has checked already.
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


# Sessions are cached, because most of the time that a new client takes goes into reading the service models. A lock
# guards them, because sessions are not thread-safe (boto3 guide, "Session"). Clients are.
_session = cache(boto3.Session)
_making = Lock()
# If a process forks while another thread holds the lock, nobody would ever release the child's copy of it.
os.register_at_fork(after_in_child=lambda: globals().update(_making=Lock()))
