"""What `provision` creates, leaves and corrects, and what a worker says at start about missing resources."""

from __future__ import annotations

import json
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from pydantic import HttpUrl

from celery_sqs.sqs.queue import queue_url
from emails.resources import ResourcesMissing, check_resources, provision, why_unusable
from emails.store import Attention
from settings import Settings, aws
from settings.aws import client
from settings.model import dead_letter_queue
from tests.support.stage import PREDECESSORS_TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_sqs import SQSClient


@pytest.fixture
def bare(emulator: str) -> Settings:
    """Return the settings of a stage in which nothing was created."""
    return Settings(endpoint_url=HttpUrl(emulator), stage=f"t{uuid.uuid4().hex[:10]}")


def attributes(sqs: SQSClient, queue: str) -> Mapping[Any, str]:
    url = queue_url(sqs, queue)
    assert url is not None
    return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]


def test_provision_makes_every_queue_with_its_dead_letters_and_the_table(bare: Settings) -> None:
    stage = bare.stage
    assert list(provision(bare)) == [
        f"created queue emails_{stage}_dlq",
        f"created queue emails_{stage}",
        f"created queue emails_{stage}_bulk_dlq",
        f"created queue emails_{stage}_bulk",
        f"created queue emails_{stage}_tasks_dlq",
        f"created queue emails_{stage}_tasks",
        f"created queue emails_{stage}_callbacks_dlq",
        f"created queue emails_{stage}_callbacks",
        f"created table emails_{stage}",
        f"created table email_events_{stage}",
        f"set table email_events_{stage} to delete items after their ExpiresAt",
    ]
    check_resources(bare)
    assert all(line.startswith("found ") for line in provision(bare)), "it may run as often as one likes"
    sqs = client("sqs", bare)
    for queue in bare.queues:
        dead_letters = attributes(sqs, dead_letter_queue(queue))
        assert dead_letters["MessageRetentionPeriod"] == str(14 * 24 * 3600)
        made = attributes(sqs, queue)
        assert made["VisibilityTimeout"] == "120"
        redrive = json.loads(made["RedrivePolicy"])
        assert redrive["deadLetterTargetArn"] == dead_letters["QueueArn"]
        assert int(redrive["maxReceiveCount"]) == 20
    table = client("dynamodb", bare).describe_table(TableName=bare.table)["Table"]
    assert table["KeySchema"] == [{"AttributeName": "EmailId", "KeyType": "HASH"}]
    assert {each["AttributeName"]: each["AttributeType"] for each in table["AttributeDefinitions"]} == {
        "EmailId": "S",
        "AttentionKey": "S",
        "AttentionSince": "N",
    }
    (index,) = table["GlobalSecondaryIndexes"]
    assert index["Projection"] == {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["EmailStatus", "FailureReason"]}


@pytest.mark.parametrize(
    "billing",
    [
        {},
        {
            "BillingMode": "PROVISIONED",
            "ProvisionedThroughput": {"ReadCapacityUnits": 7, "WriteCapacityUnits": 9},
        },
    ],
    ids=["on demand", "provisioned"],
)
def test_provision_adds_the_index_to_a_table_of_the_predecessor(bare: Settings, billing: dict[str, Any]) -> None:
    dynamodb = client("dynamodb", bare)
    dynamodb.create_table(**PREDECESSORS_TABLE | billing | {"TableName": bare.table})
    lines = [line for line in provision(bare) if "table emails_" in line]
    assert lines[0] == f"found table {bare.table}"
    assert lines[1].startswith(f"adding index Attention to table {bare.table}")
    assert [line for line in provision(bare) if "index" in line] == []
    (index,) = dynamodb.describe_table(TableName=bare.table)["Table"]["GlobalSecondaryIndexes"]
    throughput = billing.get("ProvisionedThroughput", {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0})
    assert throughput.items() <= index["ProvisionedThroughput"].items()
    assert list(Attention.from_settings(bare).newest()) == []


def test_provision_waits_for_the_index_and_says_so(bare: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator builds an index at once, so DescribeTable's answers are changed here."""
    list(provision(bare))
    slept: list[float] = []
    monkeypatch.setattr("emails.resources.time.sleep", slept.append)
    monkeypatch.setattr("emails.resources.time.monotonic", lambda: 5.0 * len(slept))

    def building(service: str, settings: Settings) -> Any:
        made: Any = client(service, settings)  # type: ignore[call-overload]  # it is one of the two services
        made.meta.events.register("after-call.dynamodb.DescribeTable", delay)
        return made

    def delay(parsed: dict[str, Any], **_: Any) -> None:
        for index in parsed["Table"].get("GlobalSecondaryIndexes", []):
            index["IndexStatus"] = "ACTIVE" if len(slept) >= 15 else "CREATING"

    monkeypatch.setattr("emails.resources.client", building)
    assert [line for line in provision(bare) if "index" in line] == [
        f"index Attention of table {bare.table} is CREATING after {seconds} s" for seconds in (30, 60)
    ]
    assert slept == [5.0] * 15


def test_provision_corrects_what_differs_and_keeps_the_messages(settings: Settings, sqs: SQSClient) -> None:
    url = queue_url(sqs, settings.queue) or ""
    sqs.send_message(QueueUrl=url, MessageBody="kept")
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "30", "RedrivePolicy": ""})
    lines = list(provision(settings))
    assert [line for line in lines if not line.startswith("found ")] == [f"corrected queue {settings.queue}"]
    corrected = attributes(sqs, settings.queue)
    assert corrected["VisibilityTimeout"] == "120"
    assert dead_letter_queue(settings.queue) in corrected["RedrivePolicy"]
    assert corrected["ApproximateNumberOfMessages"] == "1"
    other = settings.model_copy(update={"visibility_timeout": 60})
    assert f"corrected queue {settings.tasks_queue}" in list(provision(other))
    assert attributes(sqs, settings.tasks_queue)["VisibilityTimeout"] == "60"


def test_a_fifo_queue_has_fifo_dead_letters(emulator: str, bare: Settings) -> None:
    name = f"{bare.stage}.fifo"
    url = HttpUrl(f"{emulator}/000000000000/{name}")
    fifo = Settings(endpoint_url=bare.endpoint_url, stage=bare.stage, queue_url=url)
    list(provision(fifo))
    check_resources(fifo)
    sqs = client("sqs", fifo)
    assert attributes(sqs, name)["FifoQueue"] == attributes(sqs, f"{bare.stage}_dlq.fifo")["FifoQueue"] == "true"
    assert "FifoQueue" not in attributes(sqs, f"{bare.stage}_tasks"), "Celery's own messages need no order"
    assert all(line.startswith("found ") for line in provision(fifo))


def test_what_is_missing_is_named_with_the_command_that_makes_it(bare: Settings) -> None:
    with pytest.raises(ResourcesMissing) as raised:
        check_resources(bare)
    for name in (f"queue emails_{bare.stage},", f"queue emails_{bare.stage}_tasks_dlq,", f"table emails_{bare.stage},"):
        assert name in str(raised.value)
    assert "email-service provision" in str(raised.value)


def test_only_what_is_missing_is_named(settings: Settings, sqs: SQSClient) -> None:
    sqs.delete_queue(QueueUrl=queue_url(sqs, dead_letter_queue(settings.queue)) or "")
    with pytest.raises(ResourcesMissing) as raised:
        check_resources(settings)
    assert str(raised.value).startswith(f"Missing: queue {dead_letter_queue(settings.queue)}. Create ")
    elsewhere = settings.model_copy(update={"table_name": "elsewhere"})
    with pytest.raises(ResourcesMissing, match=r"table elsewhere"):
        check_resources(elsewhere)


def test_a_worker_is_told_where_nothing_answers(monkeypatch: pytest.MonkeyPatch, free_endpoint: str) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    with pytest.raises(ResourcesMissing) as raised:
        check_resources(Settings(endpoint_url=HttpUrl(free_endpoint)))
    assert f"Nothing answers at {free_endpoint}: " in str(raised.value)
    assert "email-service emulator" in str(raised.value)


def test_a_worker_is_told_that_a_region_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(aws, "_session", boto3.Session)  # another test's session already has credentials
    with pytest.raises(ResourcesMissing, match=r"^There are no usable AWS credentials for eu-west-1: "):
        check_resources(Settings(region="eu-west-1"))


def test_the_advice_for_an_endpoint_is_not_that_for_a_region() -> None:
    error = EndpointConnectionError(endpoint_url="https://sqs.eu-west-1.amazonaws.com")
    assert "email-service emulator" in why_unusable(Settings(), error)
    assert "emulator" not in why_unusable(Settings(region="eu-west-1"), error)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("AccessDenied", "Check the credentials and their policy."),
        ("ExpiredTokenException", "Check the credentials and their policy."),
        ("RequestThrottled", "Try again later."),
        ("InternalFailure", "Try again later."),
    ],
)
def test_a_refusal_of_aws_is_named_and_blames_the_credentials_only_where_it_is_theirs(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, code: str, advice: str
) -> None:
    def refuse(service: str, settings: Settings) -> Any:
        made: Any = client(service, settings)  # type: ignore[call-overload]  # it is one of the two services
        made.meta.events.register("before-call", answer)
        return made

    def answer(**_: Any) -> tuple[Any, dict[str, Any]]:
        """Give this answer instead of the network's."""
        error = {"Code": code, "Message": "not now"}
        return SimpleNamespace(status_code=403), {"Error": error, "ResponseMetadata": {}}

    monkeypatch.setattr("emails.resources.client", refuse)
    with pytest.raises(ResourcesMissing) as raised:
        check_resources(settings)
    assert str(raised.value).startswith("AWS in localstack refused the request: ")
    assert f"({code})" in str(raised.value)
    assert str(raised.value).endswith(f"not now. {advice}")
