"""The stand-in, used by real boto3 clients and by the service itself."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.exceptions import ClientError

from emails.providers.contract import Receipt
from emails.raw_queue import enqueue_ids
from emails.resources import check_resources, provision
from emails.status import ABANDON
from emails.store import Conflict, EmailStore
from settings.aws import client
from tests.support.groups import always_grouped
from tests.support.stage import environment_of, new_stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_sqs import SQSClient

    from celery_sqs.sqs.queue import Queue
    from settings import Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def standin() -> Iterator[str]:
    """Return the URL of a stand-in."""
    with running_standin() as url:
        yield url


@contextmanager
def running_standin(*options: str) -> Iterator[str]:
    command = [sys.executable, "-m", "bench.standin", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1]
        process.terminate()
        assert process.wait(10) == 0


@pytest.fixture
def settings(standin: str) -> Settings:
    """Return the settings of a new stage on the stand-in, with its queues and table, and with all counts at 0."""
    settings = new_stage(standin)
    look(standin, "/reset-counts")
    return settings


@pytest.fixture
def queue(sqs: SQSClient, settings: Settings) -> str:
    return sqs.get_queue_url(QueueName=settings.queue)["QueueUrl"]


def look(standin: str, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(standin + path) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def depths(standin: str, queue: str) -> tuple[int, int, int]:
    """Return how many messages are visible, in flight and delayed."""
    found = look(standin, f"/queue?url={quote(queue)}")
    return found["visible"], found["in_flight"], found["delayed"]


def receive(sqs: SQSClient, queue: str, **options: Any) -> list[dict[str, Any]]:
    answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, **options)
    return [dict(message) for message in answer.get("Messages", [])]


# SQS


def test_a_message_comes_as_it_was_sent(sqs: SQSClient, queue: str) -> None:
    attributes = {
        "Text": {"DataType": "String", "StringValue": "ä"},
        "Bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    sent = sqs.send_message(QueueUrl=queue, MessageBody="Grüße ✓", MessageAttributes=attributes)  # type: ignore[arg-type]  # the type has narrower keys
    (message,) = receive(sqs, queue, MessageAttributeNames=["All"], MessageSystemAttributeNames=["All"])
    assert message["Body"] == "Grüße ✓"
    assert message["MessageAttributes"] == attributes
    assert message["MessageId"] == sent["MessageId"]
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"] == hashlib.md5("Grüße ✓".encode()).hexdigest()
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert abs(int(message["Attributes"]["SentTimestamp"]) / 1000 - time.time()) < 60


def test_only_the_attributes_that_are_asked_for_come(sqs: SQSClient, queue: str) -> None:
    attributes = {name: {"DataType": "String", "StringValue": name} for name in ("a", "b")}
    for _ in range(2):
        sqs.send_message(QueueUrl=queue, MessageBody="x", MessageAttributes=attributes)  # type: ignore[arg-type]  # the type has narrower keys
    (first, _) = receive(sqs, queue, VisibilityTimeout=0)
    assert "Attributes" not in first
    assert "MessageAttributes" not in first
    (first, _) = receive(sqs, queue, MessageAttributeNames=["a"], MessageSystemAttributeNames=["SentTimestamp"])
    assert list(first["MessageAttributes"]) == ["a"]
    assert list(first["Attributes"]) == ["SentTimestamp"]


def test_messages_come_in_order_ten_at_a_time(sqs: SQSClient, queue: str) -> None:
    for start in (0, 10):
        entries = [{"Id": str(n), "MessageBody": str(n)} for n in range(start, start + 10)]
        answer = sqs.send_message_batch(QueueUrl=queue, Entries=entries)  # type: ignore[arg-type]  # the entries are a TypedDict
        assert [sent["Id"] for sent in answer["Successful"]] == [entry["Id"] for entry in entries]
    assert [message["Body"] for message in receive(sqs, queue)] == [str(n) for n in range(10)]
    assert [message["Body"] for message in receive(sqs, queue)] == [str(n) for n in range(10, 20)]
    assert receive(sqs, queue) == []


def test_a_long_poll_ends_with_the_message_it_waited_for(
    standin: str, sqs: SQSClient, queue: str, wait_until: Callable[..., None]
) -> None:
    received: list[dict[str, Any]] = []
    poll = threading.Thread(target=lambda: received.extend(receive(sqs, queue, WaitTimeSeconds=20)))
    poll.start()
    wait_until(lambda: look(standin, "/counts")["sqs"].get("ReceiveMessage"))
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    poll.join(5)
    assert [message["Body"] for message in received] == ["x"]


def test_a_long_poll_on_an_empty_queue_waits_its_time(sqs: SQSClient, queue: str) -> None:
    start = time.monotonic()
    assert receive(sqs, queue, WaitTimeSeconds=1) == []
    assert time.monotonic() - start >= 1


def test_a_long_poll_whose_client_is_gone_takes_nothing(
    standin: str, sqs: SQSClient, queue: str, wait_until: Callable[..., None]
) -> None:
    body = json.dumps({"QueueUrl": queue, "WaitTimeSeconds": 20}).encode()
    address = urlsplit(standin)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\nContent-Length: {len(body)}\r\n\r\n"
        for part in (head.encode(), body[:5], body[5:]):
            connection.send(part)
        wait_until(lambda: look(standin, "/counts")["sqs"].get("ReceiveMessage"))
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"", "the stand-in has closed its side"
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    assert depths(standin, queue) == (1, 0, 0)


def test_a_message_that_is_not_deleted_in_time_comes_again(standin: str, sqs: SQSClient, queue: str) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    (first,) = receive(sqs, queue, VisibilityTimeout=1)
    assert depths(standin, queue) == (0, 1, 0)
    (second,) = receive(sqs, queue, WaitTimeSeconds=20, MessageSystemAttributeNames=["All"])
    assert second["MessageId"] == first["MessageId"]
    assert second["Attributes"]["ApproximateReceiveCount"] == "2"
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=first["ReceiptHandle"])
    assert depths(standin, queue) == (0, 1, 0), "a handle from an earlier receive deletes nothing"
    for _ in range(2):  # a second delete succeeds, as on AWS
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=second["ReceiptHandle"])
    assert depths(standin, queue) == (0, 0, 0)


def test_a_changed_visibility_replaces_the_earlier_one(standin: str, sqs: SQSClient, queue: str) -> None:
    for body in ("released", "extended", "blocked"):
        sqs.send_message(QueueUrl=queue, MessageBody=body)
    released, extended, blocked = receive(sqs, queue, VisibilityTimeout=1)
    entries = [
        {"Id": "r", "ReceiptHandle": released["ReceiptHandle"], "VisibilityTimeout": 0},
        {"Id": "e", "ReceiptHandle": extended["ReceiptHandle"], "VisibilityTimeout": 60},
    ]
    sqs.change_message_visibility_batch(QueueUrl=queue, Entries=entries)  # type: ignore[arg-type]  # the entries are a TypedDict
    (again,) = receive(sqs, queue, VisibilityTimeout=60)
    assert again["Body"] == "released"
    (again,) = receive(sqs, queue, WaitTimeSeconds=20)
    assert again["MessageId"] == blocked["MessageId"], "its time-out was over; the extended one's was not"
    assert depths(standin, queue) == (0, 3, 0)


def test_a_visibility_can_only_be_changed_in_flight(sqs: SQSClient, queue: str) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    (message,) = receive(sqs, queue, VisibilityTimeout=0)
    entry = {"Id": "1", "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 5}
    receive(sqs, queue)  # this gives the message a new handle
    answer = sqs.change_message_visibility_batch(QueueUrl=queue, Entries=[entry])  # type: ignore[list-item]  # the entry is a TypedDict
    assert [failure["Code"] for failure in answer["Failed"]] == ["MessageNotInflight"]
    with pytest.raises(sqs.exceptions.MessageNotInflight):
        sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=5)


def test_a_delayed_message_comes_when_its_delay_is_over(standin: str, sqs: SQSClient, queue: str) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody="later", DelaySeconds=1)
    assert depths(standin, queue) == (0, 0, 1)
    assert receive(sqs, queue) == []
    (message,) = receive(sqs, queue, WaitTimeSeconds=20)
    assert message["Body"] == "later"


def test_attributes_tags_and_depths_are_told(sqs: SQSClient, queue: str) -> None:
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"VisibilityTimeout": "77"})
    sqs.tag_queue(QueueUrl=queue, Tags={"team": "mail"})
    for delay in (0, 0, 60):
        sqs.send_message(QueueUrl=queue, MessageBody="x", DelaySeconds=delay)
    sqs.receive_message(QueueUrl=queue)
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "77"
    assert attributes["QueueArn"].endswith(queue.rpartition("/")[2])
    assert attributes["ApproximateNumberOfMessages"] == "1"
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "1"
    assert attributes["ApproximateNumberOfMessagesDelayed"] == "1"
    assert sqs.list_queue_tags(QueueUrl=queue)["Tags"] == {"team": "mail"}
    sqs.purge_queue(QueueUrl=queue)
    assert sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"] == {
        "ApproximateNumberOfMessages": "0"
    }


def test_a_deleted_queue_does_not_exist(sqs: SQSClient, queue: str, settings: Settings) -> None:
    assert queue in sqs.list_queues(QueueNamePrefix=settings.queue)["QueueUrls"]
    sqs.delete_queue(QueueUrl=queue)
    assert queue not in sqs.list_queues(QueueNamePrefix=settings.queue)["QueueUrls"]
    with pytest.raises(ClientError) as caught:
        sqs.get_queue_url(QueueName=settings.queue)
    assert caught.value.response["Error"]["Code"] == "AWS.SimpleQueueService.NonExistentQueue"
    assert isinstance(caught.value, sqs.exceptions.QueueDoesNotExist)


def test_what_sqs_would_not_take_is_refused(sqs: SQSClient, queue: str) -> None:
    many = [{"Id": str(n), "MessageBody": "x"} for n in range(11)]
    with pytest.raises(sqs.exceptions.TooManyEntriesInBatchRequest):
        sqs.send_message_batch(QueueUrl=queue, Entries=many)  # type: ignore[arg-type]  # the entries are a TypedDict
    with pytest.raises(sqs.exceptions.BatchRequestTooLong):
        sqs.send_message(QueueUrl=queue, MessageBody="x" * 1_048_577)
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=21)
    with pytest.raises(ClientError, match="does not support ListDeadLetterSourceQueues"):
        sqs.list_dead_letter_source_queues(QueueUrl=queue)


def test_requests_are_counted_and_billed_by_64_kilobytes_of_payload(standin: str, sqs: SQSClient, queue: str) -> None:
    look(standin, "/reset-counts")
    large = "x" * 40 * 1024
    sqs.send_message(QueueUrl=queue, MessageBody="x")
    entries = [{"Id": str(n), "MessageBody": large} for n in range(4)]
    sqs.send_message_batch(QueueUrl=queue, Entries=entries)  # type: ignore[arg-type]  # the entries are a TypedDict
    receive(sqs, queue)
    receive(sqs, queue)
    counts = look(standin, "/reset-counts")
    assert counts["sqs"] == {"SendMessage": 1, "SendMessageBatch": 1, "ReceiveMessage": 2}
    assert counts["sqs_units"] == {"SendMessage": 1, "SendMessageBatch": 3, "ReceiveMessage": 4}
    assert look(standin, "/counts") == {"sqs": {}, "sqs_units": {}, "dynamodb": {}, "updates": {}}


# DynamoDB


def _story(store: EmailStore, row: dict[str, Any]) -> list[Any]:
    """Return what the store answers over an email's life, without the parts that differ from run to run."""
    told: list[Any] = []

    def tell(what: Callable[[], object]) -> Any:
        try:
            told.append(what())
        except Conflict as conflict:
            told.append(("conflict", conflict.row))
        return told[-1]

    email_id = row["EmailId"]
    receipt = Receipt("stub", "message-1")
    tell(lambda: store.get(email_id))
    tell(lambda: store.claim(email_id, lease=60))
    tell(lambda: store.put(row))
    tell(lambda: store.put(row))
    claim = tell(lambda: store.claim(email_id, lease=60))
    tell(lambda: store.claim(email_id, lease=60))
    tell(lambda: store.end(email_id, ABANDON, "its lease is alive"))
    tell(lambda: store.give_back(claim, next_attempt_at=time.time() + 60, reason="busy"))
    tell(lambda: store.claim(email_id, lease=60))
    tell(lambda: store.record(claim, receipt))
    tell(lambda: store.get(email_id))
    store.put(row | {"EmailId": f"{email_id}-2", "NextAttemptAt": None, "Attempts": 4})
    late = tell(lambda: store.claim(f"{email_id}-2", lease=-60))
    tell(lambda: store.end(f"{email_id}-2", ABANDON, "its lease is over"))
    tell(lambda: store.record(late, receipt))
    tell(lambda: store.get(f"{email_id}-2"))
    return [_steady(answer) for answer in told]


def _steady(answer: Any) -> Any:
    if isinstance(answer, tuple):
        return answer[0], _steady(answer[1])
    row = getattr(answer, "row", answer)
    varying = ("ClaimedBy", "ClaimExpiresAt", "UpdatedAt", "SentAt", "NextAttemptAt")
    return row and {name: "…" if name in varying and value else value for name, value in row.items()}


@pytest.mark.parametrize("grouped", [True, False], ids=["grouped", "not grouped"])
def test_the_store_finds_what_it_finds_on_the_emulator(
    emulator: str, settings: Settings, row: dict[str, Any], grouped: bool
) -> None:
    elsewhere = settings.model_copy(update={"endpoint_url": emulator})
    list(provision(elsewhere))
    stores = [EmailStore.from_settings(chosen) for chosen in (settings, elsewhere)]
    here, there = (_story(always_grouped(store) if grouped else store, row) for store in stores)
    assert here == there
    assert [answer[0] for answer in here if isinstance(answer, tuple)] == ["conflict"] * 6
    assert here[-1]["EmailStatus"] == "Sent"
    assert here[-1]["Attempts"] == 5
    used = {"GetItem", "UpdateItem"} | ({"BatchGetItem", "BatchExecuteStatement"} if grouped else set())
    assert used <= look(str(settings.endpoint), "/counts")["dynamodb"].keys()


def test_a_condition_or_an_update_that_is_not_known_is_refused(settings: Settings) -> None:
    dynamodb = client("dynamodb", settings)
    for expression in ("SET #name = :v", "ADD Attempts :v", "SET a.b = :v", "SET a = a - :v", "SET a = :other"):
        with pytest.raises(ClientError, match="ValidationException"):
            dynamodb.update_item(
                TableName=settings.table,
                Key={"EmailId": {"S": "1"}},
                UpdateExpression=expression,
                ExpressionAttributeValues={":v": {"N": "1"}},
            )
    for expression in ("NOT a = :v", "a > :v", "begins_with(a, :v)", "a = :v AND", "a = :other", "__import__(a)"):
        with pytest.raises(ClientError, match="ValidationException"):
            dynamodb.put_item(
                TableName=settings.table,
                Item={"EmailId": {"S": "1"}},
                ConditionExpression=expression,
                ExpressionAttributeValues={":v": {"N": "1"}},
            )
    assert dynamodb.get_item(TableName=settings.table, Key={"EmailId": {"S": "1"}}).get("Item") is None


def test_rows_are_written_in_batches(settings: Settings, store: EmailStore, row: dict[str, Any]) -> None:
    item = {"EmailId": {"S": row["EmailId"]}, "EmailStatus": {"S": "Pending"}}
    answer = client("dynamodb", settings).batch_write_item(
        RequestItems={settings.table: [{"PutRequest": {"Item": item}}]}
    )
    assert answer["UnprocessedItems"] == {}
    assert store.get(row["EmailId"]) == {"EmailId": row["EmailId"], "EmailStatus": "Pending"}


# The service


def test_provision_makes_what_a_worker_looks_for(settings: Settings) -> None:
    check_resources(settings)
    assert all(line.startswith("found") for line in provision(settings))


OTHERS = {  # the contenders that the bench compares with the service
    "stock_celery": ["celery -A bench.stock_app worker --loglevel WARNING", "bench.stock_app"],
    "dramatiq": ["dramatiq bench.dramatiq_app --processes 1 --threads 16", "bench.dramatiq_app"],
    "floor": ["bench.floor"],
}
CONTENDERS = {"service": ["celery -A tasks worker --loglevel WARNING"], **OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize("contender", CONTENDERS)
def test_each_contender_sends_every_email(
    contender: str, settings: Settings, raw_queue: Queue, row: dict[str, Any], wait_until: Callable[..., None]
) -> None:
    if contender == "dramatiq":
        pytest.importorskip("dramatiq_sqs", reason="the dependency group bench is not installed")
    store = EmailStore.from_settings(settings)
    ids = [f"{row['EmailId']}-{number}" for number in range(50)]
    for email_id in ids:
        store.put(row | {"EmailId": email_id})
    assert enqueue_ids(raw_queue, ids) == {}
    unsent = set(ids)

    def all_sent() -> bool:
        rows = [store.get(email_id) or {} for email_id in unsent]
        unsent.difference_update([row["EmailId"] for row in rows if row["EmailStatus"] == "Sent"])
        return not unsent

    environment = os.environ | environment_of(settings)
    with ExitStack() as processes:
        for command in CONTENDERS[contender]:
            arguments = [sys.executable, "-m", *command.split()]
            process = processes.enter_context(subprocess.Popen(arguments, cwd=ROOT, env=environment))
            processes.callback(process.terminate)
        wait_until(all_sent, seconds=150, what="every email is Sent")
    counts = look(str(settings.endpoint_url), "counts")
    assert counts["updates"][settings.table] == 2 * len(ids), "a claim and a record each"


def test_with_a_latency_each_answer_of_dynamodb_is_late() -> None:
    with running_standin("--latency", "100") as url:
        settings = new_stage(url)
        dynamodb = client("dynamodb", settings)
        started = time.monotonic()
        for _ in range(2):
            dynamodb.describe_table(TableName=settings.table)
        assert time.monotonic() - started >= 0.2
