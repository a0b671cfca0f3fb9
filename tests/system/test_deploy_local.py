"""`make deploy-local`: the real CDK CLI deploys both stacks to the emulator, which runs the functions' zip."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import pytest

from email_lambda.batch import Batch
from email_lambda.steps import RecordCallback, SendEmail
from emails.dead_letters import dead_letters
from emails.events import RejectReason
from emails.providers.contract import RefusedRecipient
from emails.providers.stub import StubProvider
from emails.raw_queue import enqueue_ids, find_raw_queue
from emails.resources import provision
from emails.sender import Sender
from emails.status import DISCARD
from emails.store import Attention, EmailStore
from emails.tracking import Tracking
from settings import Settings
from settings.aws import client
from tests.email_lambda.conftest import context, record
from tests.emails.callbacks.notifications import event
from tests.support.proxy import Proxy, running
from tests.system.test_iam import NOTHING, Recorder, compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from email_lambda.batch import Step
    from emails.email import Email
    from emails.providers.contract import Receipt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test installs the CDK

ROOT = Path(__file__).parents[2]
ACCOUNT = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
STAGES = ("one", "two")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # This make must not get the variables of a make that runs the tests.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "EMAIL_"))
    }
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def deployed(emulator: str) -> str:
    """The URL of the emulator, to which two stages have been deployed."""
    for stage in STAGES:
        result = make("deploy-local", f"STAGE={stage}", f"PORT={urlsplit(emulator).port}")
        assert result.returncode == 0, result.stdout + result.stderr
    return emulator


@pytest.fixture(params=STAGES)
def settings(deployed: str, request: pytest.FixtureRequest) -> Settings:
    """The settings of each stage in turn."""
    return Settings(endpoint_url=deployed, stage=request.param)


def aws(service: str, emulator: str) -> Any:
    return boto3.client(service, endpoint_url=emulator, **ACCOUNT)  # type: ignore[call-overload]  # the stubs know only some services


def test_a_raw_message_becomes_sent_and_a_bad_one_a_dead_letter(
    settings: Settings, store: EmailStore, row: dict[str, Any], wait_until: Callable[..., None]
) -> None:
    store.put(row)
    sqs = client("sqs", settings)
    enqueue_ids(find_raw_queue(settings), [row["EmailId"]])
    sqs.send_message(QueueUrl=find_raw_queue(settings, bulk=True).url, MessageBody="no JSON")
    wait_until(lambda: (store.get(row["EmailId"]) or {})["EmailStatus"] == "Sent")
    found: list[Any] = []
    wait_until(lambda: found.extend(dead_letters(sqs, settings)) or found)
    assert [(letter.queue, letter.reason) for letter in found] == [(f"{settings.bulk_queue}_dlq", "NotJson")]


def test_an_email_whose_row_comes_late_is_sent(
    settings: Settings, store: EmailStore, row: dict[str, Any], wait_until: Callable[..., None]
) -> None:
    enqueue_ids(find_raw_queue(settings), [row["EmailId"]])
    logs = aws("logs", settings.endpoint or "")

    def said() -> str:
        group = f"/aws/lambda/{settings.queue}_send_emails"
        return str(logs.filter_log_events(logGroupName=group, filterPattern="")["events"])

    wait_until(lambda: "it has no row yet" in said())
    store.put(row)
    wait_until(lambda: (store.get(row["EmailId"]) or {})["EmailStatus"] == "Sent")
    assert row["RecipientsTo"][0] not in said()


def test_a_callback_by_the_topic_moves_the_row(
    settings: Settings, store: EmailStore, row: dict[str, Any], wait_until: Callable[..., None]
) -> None:
    store.put({**row, "EmailStatus": "Sent"})
    topic = f"arn:aws:sns:us-east-1:000000000000:{settings.callbacks_queue}"
    notification = json.dumps(event("Bounce", row["EmailId"]))
    aws("sns", settings.endpoint or "").publish(TopicArn=topic, Message=notification)
    wait_until(lambda: (store.get(row["EmailId"]) or {})["EmailStatus"] == "Bounced")


def test_provision_finds_what_is_deployed_and_corrects_nothing(settings: Settings) -> None:
    did = {line.partition(" ")[0] for line in provision(settings) if "ExpiresAt" not in line}
    assert did == {"found"}, "the emulator ignores a template's TTL, and nothing else"


def test_an_email_that_needs_a_person_is_in_the_deployed_index(
    settings: Settings, store: EmailStore, row: dict[str, Any]
) -> None:
    store.put(row)
    store.end(row["EmailId"], DISCARD, "no")
    assert row["EmailId"] in {entry.email_id for entry in Attention.from_settings(settings).newest()}


def test_the_outputs_lead_to_the_function_its_queue_and_its_table(settings: Settings) -> None:
    stack = f"ScalableEmail{settings.stage.capitalize()}"
    (described,) = aws("cloudformation", settings.endpoint or "").describe_stacks(StackName=stack)["Stacks"]
    outputs = {each["OutputKey"]: each["OutputValue"] for each in described["Outputs"]}
    assert outputs["QueueUrl"].endswith(f"/{settings.queue}")
    assert (outputs["DatabaseTable"], outputs["HandlerVersion"]) == (settings.table, "1")
    answer = aws("lambda", settings.endpoint or "").invoke(
        FunctionName=outputs["HandlerArn"], Payload=b'{"Records": []}'
    )
    assert json.load(answer["Payload"]) == {"batchItemFailures": []}


@pytest.fixture
def as_an_account(deployed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that the CDK needs."""
    environment = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in {**environment, "AWS_ENDPOINT_URL": deployed.replace("127.0.0.1", "localhost")}.items():
        monkeypatch.setenv(name, value)


def test_deployed_again_without_a_change_there_is_no_difference(as_an_account: None) -> None:
    stages = json.dumps({stage: {} for stage in STAGES})
    result = make("cdk", f"ARGS=diff --all --fail --context stages='{stages}'")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Number of stacks with differences: 0" in result.stdout + result.stderr


# Actions that a function does not use itself. The event source mapping, Lambda's logging and X-Ray use its role, too.
LAMBDAS_OWN = {
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}


def role_of(function: str, emulator: str) -> list[dict[str, Any]]:
    """Return the statements of a deployed function's role."""
    configuration = aws("lambda", emulator).get_function_configuration(FunctionName=function)
    name = configuration["Role"].rpartition("/")[2]
    iam = aws("iam", emulator)
    (policy,) = iam.list_role_policies(RoleName=name)["PolicyNames"]
    found = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
    return [
        {key: value if isinstance(value, list) else [value] for key, value in statement.items()}
        for statement in json.loads(json.dumps(found).replace("000000000000", "123456789012"))["Statement"]
    ]


def arn(queue: str) -> str:
    return f"arn:aws:sqs:us-east-1:123456789012:{queue}"


def received(body: str, queue: str) -> dict[str, Any]:
    return record({"MessageId": uuid4().hex, "ReceiptHandle": "none", "Body": body, "Attributes": {}}, queue)


class Refusing(StubProvider):
    """Refuses the first recipient, so that something is written to the history."""

    def send(self, email: Email) -> Receipt:
        refused = RefusedRecipient(email.recipients[0].addr_spec, RejectReason.INVALID)
        return replace(super().send(email), refused=(refused,))


def test_a_role_allows_what_its_function_asks_for_and_no_more(deployed: str, row: dict[str, Any]) -> None:
    """The steps run in this process, behind a proxy, because a deployed function's requests cannot be recorded."""
    store = EmailStore.from_settings(Settings(endpoint_url=deployed, stage=STAGES[0]))
    store.put({**row, "EmailId": "iam"})
    recorder = Recorder()
    with running(Proxy(deployed, recorder)) as proxy:
        settings = Settings(endpoint_url=proxy.url, stage=STAGES[0])
        watched = EmailStore.from_settings(settings)
        sending = SendEmail(Sender(watched, {"stub": Refusing()}, settings))
        recording = RecordCallback(Tracking.from_settings(settings))
        bounced, unheard_of = event("Bounce", "iam"), {**event("Open", "iam"), "eventType": "Novelty"}
        steps: list[tuple[str, str, Step, list[str]]] = [
            ("send_emails", settings.queue, sending, ['{"email_id": "iam"}', '{"email_id": "none"}', "no JSON"]),
            (
                "record_callbacks",
                settings.callbacks_queue,
                recording,
                [json.dumps(bounced), json.dumps(unheard_of), "no JSON"],
            ),
        ]
        for function, queue, step, bodies in steps:
            recorder.seen.clear()
            batch = Batch(step, client("sqs", settings))
            assert batch({"Records": [received(body, queue) for body in bodies]}, context()) == {
                "batchItemFailures": []
            }
            if function == "record_callbacks":
                # A callback waits in its queue if DynamoDB is unavailable, which does not happen here.
                recorder.seen |= {("sqs:SendMessage", arn(queue)), ("sqs:GetQueueUrl", arn(queue))}
            allowed = role_of(f"{settings.queue}_{function}", deployed)
            assert compare(allowed, recorder.seen, LAMBDAS_OWN) == NOTHING, function


def test_destroyed_a_stage_leaves_nothing_and_the_other_alone(deployed: str, as_an_account: None) -> None:
    result = make("cdk", f"ARGS=destroy --all --force --context stages='{json.dumps({STAGES[1]: {}})}'")
    assert result.returncode == 0, result.stdout + result.stderr
    names = [
        *aws("sqs", deployed).list_queues(QueueNamePrefix="emails_").get("QueueUrls", []),
        *aws("dynamodb", deployed).list_tables()["TableNames"],
        *(each["FunctionName"] for each in aws("lambda", deployed).list_functions()["Functions"]),
        *(each["logGroupName"] for each in aws("logs", deployed).describe_log_groups()["logGroups"]),
    ]
    assert [name for name in names if STAGES[1] in name.split("_")] == []
    assert [name for name in names if STAGES[0] in name.split("_")] != []
