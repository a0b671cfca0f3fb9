"""The queues, their dead-letter queues and the tables. `provision` creates them, and a worker checks them at start."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, cast

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from celery_sqs.sqs.queue import Queue, queue_url
from emails.hints import emulator_hint, hint
from emails.store import attention
from settings.aws import client
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TableDescriptionTypeDef
    from mypy_boto3_sqs import SQSClient

    from settings import Settings

DEAD_LETTER_RETENTION_SECONDS = 14 * 24 * 3600  # the longest that SQS keeps a message
EXPIRY_ATTRIBUTE = "ExpiresAt"  # an attribute of the history's items
# While DynamoDB builds an index, `provision` looks this often, and says this often that it still waits, in seconds.
INDEX_POLL_SECONDS, INDEX_PROGRESS_SECONDS = 5.0, 30.0
# A safety net against messages that kill workers. Waiting uses up no receives, so normal messages never come close.
MAX_RECEIVES = 20

ATTENTION_INDEX: dict[str, Any] = {
    "IndexName": attention.INDEX,
    "KeySchema": [
        {"AttributeName": attention.KEY, "KeyType": "HASH"},
        {"AttributeName": attention.SINCE, "KeyType": "RANGE"},
    ],
    "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(attention.PROJECTED)},
}
ATTENTION_ATTRIBUTES = [
    {"AttributeName": attention.KEY, "AttributeType": "S"},
    {"AttributeName": attention.SINCE, "AttributeType": "N"},
]

# What SQS and DynamoDB answer if the credentials are wrong, expired or not allowed to do this (their "Common errors").
_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
# What boto3 raises if it finds no credentials, or cannot use those that it finds.
_NO_CREDENTIALS = (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)


class ResourcesMissing(Exception):
    """A queue or a table is missing, or AWS cannot be used. The text says what to do."""


def check_resources(settings: Settings) -> None:
    """Check that every queue and every table exists.

    Raises:
        ResourcesMissing: one does not exist, or AWS cannot be used.
    """
    sqs, dynamodb = client("sqs", settings), client("dynamodb", settings)
    names = [name for queue in settings.queues for name in (queue, dead_letter_queue(queue))]
    try:
        missing = [f"queue {name}" for name in names if not queue_url(sqs, name)]
        tables = (settings.table, settings.events_table)
        missing += [f"table {table}" for table in tables if not _table_exists(dynamodb, table)]
    except (BotoCoreError, ClientError) as error:
        raise ResourcesMissing(why_unusable(settings, error)) from None
    if missing:
        raise ResourcesMissing(f"Missing: {', '.join(missing)}. Create them: {hint('provision')}")


def provision(settings: Settings) -> Iterator[str]:
    """Create what is missing and correct what differs. Yields what it did for each. Raises botocore's errors."""
    sqs, dynamodb = client("sqs", settings), client("dynamodb", settings)
    for queue in settings.queues:
        yield from _provision_queue(sqs, settings, queue)
    yield _provision_table(dynamodb, settings.table, "EmailId", index=True)
    yield from _provision_index(dynamodb, settings.table)
    yield _provision_table(dynamodb, settings.events_table, "EmailId", "EventId")
    yield from _provision_expiry(dynamodb, settings.events_table)


def find_queue(sqs: SQSClient, name: str) -> Queue:
    """Return the queue of that name.

    Raises:
        ResourcesMissing: there is no such queue.
    """
    url = queue_url(sqs, name)
    if url is None:
        raise ResourcesMissing(f"There is no queue {name}: create it: {hint('provision')}")
    return Queue(name, url, lambda: sqs)


def _provision_queue(sqs: SQSClient, settings: Settings, queue: str) -> Iterator[str]:
    fifo = {"FifoQueue": "true"} if queue.endswith(".fifo") else {}
    dead_letters = dead_letter_queue(queue)
    retention = {"MessageRetentionPeriod": str(DEAD_LETTER_RETENTION_SECONDS)}
    yield _ensure_queue(sqs, dead_letters, retention, fifo)
    arn = sqs.get_queue_attributes(QueueUrl=queue_url(sqs, dead_letters) or "", AttributeNames=["QueueArn"])
    redrive = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": MAX_RECEIVES}
    attributes = {"VisibilityTimeout": str(settings.visibility_timeout), "RedrivePolicy": json.dumps(redrive)}
    yield _ensure_queue(sqs, queue, attributes, fifo)


def _ensure_queue(sqs: SQSClient, name: str, attributes: dict[str, str], fixed: dict[str, str]) -> str:
    url = queue_url(sqs, name)
    if url is None:
        sqs.create_queue(QueueName=name, Attributes=cast("Any", {**attributes, **fixed}))
        return f"created queue {name}"
    present = cast("dict[str, str]", sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"])
    if all(_same(present.get(key), value) for key, value in attributes.items()):
        return f"found queue {name}"
    sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)  # type: ignore[arg-type]  # the stubs want literals
    return f"corrected queue {name}"


def _same(present: str | None, wanted: str) -> bool:
    if present is None or not wanted.startswith("{"):
        return present == wanted
    return {k: str(v) for k, v in json.loads(present).items()} == {k: str(v) for k, v in json.loads(wanted).items()}


def _provision_table(dynamodb: DynamoDBClient, table: str, *keys: str, index: bool = False) -> str:
    if _table_exists(dynamodb, table):
        return f"found table {table}"
    schema = [{"AttributeName": name, "KeyType": kind} for name, kind in zip(keys, ("HASH", "RANGE"), strict=False)]
    attributes = [{"AttributeName": name, "AttributeType": "S"} for name in keys]
    indexes = {"GlobalSecondaryIndexes": [ATTENTION_INDEX]} if index else {}
    dynamodb.create_table(
        TableName=table,
        KeySchema=cast("Any", schema),
        AttributeDefinitions=cast("Any", [*attributes, *(ATTENTION_ATTRIBUTES if index else [])]),
        BillingMode="PAY_PER_REQUEST",
        **cast("Any", indexes),
    )
    dynamodb.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
    return f"created table {table}"


def _provision_index(dynamodb: DynamoDBClient, table: str) -> Iterator[str]:
    """Add the index of the emails that need a person to the table, unless it has it, and wait until it can be read."""
    description = dynamodb.describe_table(TableName=table)["Table"]
    began = said = time.monotonic()
    if _index_status(description) is None:
        index = dict(ATTENTION_INDEX)
        if description.get("BillingModeSummary", {}).get("BillingMode") != "PAY_PER_REQUEST":
            # An index needs a throughput of its own if its table has one. Failed emails are few, compared to all.
            throughput = description["ProvisionedThroughput"]
            index["ProvisionedThroughput"] = {
                name: throughput[name] for name in ("ReadCapacityUnits", "WriteCapacityUnits")
            }
        dynamodb.update_table(
            TableName=table,
            AttributeDefinitions=cast("Any", [*description["AttributeDefinitions"], *ATTENTION_ATTRIBUTES]),
            GlobalSecondaryIndexUpdates=[{"Create": cast("Any", index)}],
        )
        yield f"adding index {attention.INDEX} to table {table}, which takes minutes if the table is large"
    while (status := _index_status(dynamodb.describe_table(TableName=table)["Table"])) != "ACTIVE":
        if time.monotonic() - said >= INDEX_PROGRESS_SECONDS:
            said = time.monotonic()
            yield f"index {attention.INDEX} of table {table} is {status} after {said - began:.0f} s"
        time.sleep(INDEX_POLL_SECONDS)


def _index_status(description: TableDescriptionTypeDef) -> str | None:
    """Return the status of the table's index of the emails that need a person, or None if there is no such index."""
    indexes = description.get("GlobalSecondaryIndexes", [])
    # The emulator gives no status to an index that CloudFormation has made.
    return next((each.get("IndexStatus", "ACTIVE") for each in indexes if each["IndexName"] == attention.INDEX), None)


def _provision_expiry(dynamodb: DynamoDBClient, table: str) -> Iterator[str]:
    """Make DynamoDB delete items after their ExpiresAt."""
    found = dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    if found.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        specification = {"Enabled": True, "AttributeName": EXPIRY_ATTRIBUTE}
        dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification=cast("Any", specification))
        yield f"set table {table} to delete items after their {EXPIRY_ATTRIBUTE}"


def _table_exists(dynamodb: DynamoDBClient, table: str) -> bool:
    try:
        dynamodb.describe_table(TableName=table)
    except dynamodb.exceptions.ResourceNotFoundException:
        return False
    return True


def why_unusable(settings: Settings, error: BotoCoreError | ClientError) -> str:
    """Return the text for a person if a service does not answer or refuses a request. It says what to do about it."""
    if isinstance(error, _NO_CREDENTIALS):
        return (
            f"There are no usable AWS credentials for {settings.region}: {str(error).rstrip('.')}. Set AWS_PROFILE, "
            "or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role. EMAIL_REGION=localstack needs "
            "no credentials."
        )
    where = f"AWS in {settings.region}"
    if isinstance(error, ClientError):
        code = error.response["Error"]["Code"]
        if code == "ResourceNotFoundException":
            return (
                f"There is no table {settings.table} or {settings.events_table} in {settings.endpoint or where}: "
                f"create it: {hint('provision')}"
            )
        advice = "Check the credentials and their policy." if code in _DENIED else "Try again later."
        return f"{where} refused the request: {error}. {advice}"
    if settings.endpoint:
        return (
            f"Nothing answers at {settings.endpoint}: start the local emulator (`{emulator_hint(settings.endpoint)}`), "
            "or name another endpoint in EMAIL_ENDPOINT_URL, or a region in EMAIL_REGION."
        )
    return f"{where} cannot be used: {error}"
