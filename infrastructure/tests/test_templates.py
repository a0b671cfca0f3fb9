"""Tests of what the stacks promise, by their templates."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest
from aws_cdk import aws_sqs as sqs

from emails.resources import ATTENTION_ATTRIBUTES, ATTENTION_INDEX, MAX_RECEIVES
from infrastructure import lambda_stack
from infrastructure.stage import Stage
from settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    Resources = Callable[[str, str], list[dict[str, Any]]]

STACKS = ["ScalableEmailStagingData", "ScalableEmailStaging", "ScalableEmailProductionData", "ScalableEmailProduction"]
PROVIDERS = Path(__file__).parents[2] / "docs" / "providers.md"
each_stage = pytest.mark.parametrize("stage", ["staging", "production"])


def data(stage: str) -> str:
    return f"ScalableEmail{stage.capitalize()}Data"


def test_each_stage_has_its_two_stacks(folder: Path) -> None:
    assert sorted(path.name.partition(".")[0] for path in folder.glob("*.template.json")) == sorted(STACKS)


@pytest.mark.parametrize(("stage", "stack"), [("eu-staging", "ScalableEmailEuStaging"), ("a_b2", "ScalableEmailAB2")])
def test_a_stack_is_named_for_its_stage(stage: str, stack: str) -> None:
    assert Stage.parse(stage, {}).stack_name == stack


def test_cdk_nag_refuses_what_departs_from_its_rules(make_app: Callable[..., cdk.App]) -> None:
    app = make_app({"staging": {}})
    sqs.Queue(cdk.Stack(app, "Careless"), "OpenQueue")
    with pytest.raises(Exception, match=r"(?i)validation"):
        app.synth()


def test_cfn_lint_finds_nothing(folder: Path) -> None:
    program = Path(sys.executable).with_name("cfn-lint")
    result = subprocess.run(
        [program, *folder.glob("*.template.json")],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout + result.stderr == ""


# The data stack.


@each_stage
def test_the_queues_are_those_that_provision_makes(resources: Resources, stage: str) -> None:
    settings = Settings(stage=stage)
    found = {each["Properties"]["QueueName"]: each["Properties"] for each in resources(data(stage), "AWS::SQS::Queue")}
    assert found.keys() == {name for queue in settings.queues for name in (queue, f"{queue}_dlq")}
    for queue in settings.queues:
        assert found[queue]["VisibilityTimeout"] == settings.visibility_timeout
        assert found[queue]["RedrivePolicy"]["maxReceiveCount"] == MAX_RECEIVES
        assert found[f"{queue}_dlq"]["MessageRetentionPeriod"] == 14 * 24 * 3600


@each_stage
def test_every_queue_is_encrypted_and_refuses_to_talk_without_tls(resources: Resources, stage: str) -> None:
    queues = resources(data(stage), "AWS::SQS::Queue")
    for queue in queues:
        assert queue["Properties"].get("SqsManagedSseEnabled") or "KmsMasterKeyId" in queue["Properties"]
    statements = [
        statement
        for policy in resources(data(stage), "AWS::SQS::QueuePolicy")
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
    ]
    denied = [each for each in statements if each["Effect"] == "Deny"]
    assert len(denied) == len(queues)
    assert all(each["Condition"] == {"Bool": {"aws:SecureTransport": "false"}} for each in denied)


@each_stage
def test_a_callback_comes_from_the_topic_alone_and_only_ses_publishes_to_the_topic(
    resources: Resources, stage: str
) -> None:
    queue_policies = resources(data(stage), "AWS::SQS::QueuePolicy")
    topic_policies = resources(data(stage), "AWS::SNS::TopicPolicy")
    allowed = [
        statement
        for policy in queue_policies + topic_policies
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow"
    ]
    assert [(each["Principal"]["Service"], each["Action"]) for each in allowed] == [
        ("sns.amazonaws.com", "sqs:SendMessage"),
        ("ses.amazonaws.com", "sns:Publish"),
    ]
    assert f":emails_{stage}_callbacks" in str(allowed[0]["Condition"]["ArnEquals"]["aws:SourceArn"])
    assert allowed[1]["Condition"]["StringEquals"].keys() == {"AWS:SourceAccount", "AWS:SourceArn"}
    (subscription,) = resources(data(stage), "AWS::SNS::Subscription")
    assert subscription["Properties"]["RawMessageDelivery"] is True


def events_of_the_docs() -> list[str]:
    """Return the event types of the configuration set that docs/providers.md tells people to create."""
    (listed,) = re.findall(r'"MatchingEventTypes": (\[.*?\])', PROVIDERS.read_text(), flags=re.DOTALL)
    found: list[str] = json.loads(listed)
    return found


@each_stage
def test_ses_tells_what_the_docs_have_it_tell(resources: Resources, stage: str) -> None:
    (configuration_set,) = resources(data(stage), "AWS::SES::ConfigurationSet")
    assert configuration_set["Properties"]["Name"] == f"emails_{stage}"
    (destination,) = resources(data(stage), "AWS::SES::ConfigurationSetEventDestination")
    found = destination["Properties"]["EventDestination"]["MatchingEventTypes"]
    # SES's API writes DELIVERY_DELAY, but CloudFormation writes deliveryDelay.
    assert sorted(re.sub(r"(?=[A-Z])", "_", each).upper() for each in found) == sorted(events_of_the_docs())


@each_stage
def test_the_tables_can_be_restored_and_forget_old_events(resources: Resources, stage: str) -> None:
    settings = Settings(stage=stage)
    tables = {each["Properties"]["TableName"]: each for each in resources(data(stage), "AWS::DynamoDB::Table")}
    assert tables.keys() == {settings.table, settings.events_table}
    for table in tables.values():
        assert table["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
        assert table["Properties"]["SSESpecification"]["SSEType"] == "KMS"
        assert table["Properties"]["DeletionProtectionEnabled"] is (stage == "production")
        assert table["DeletionPolicy"] == ("Retain" if stage == "production" else "Delete")
    events = tables[settings.events_table]["Properties"]
    assert events["TimeToLiveSpecification"] == {"AttributeName": "ExpiresAt", "Enabled": True}
    assert [key["AttributeName"] for key in events["KeySchema"]] == ["EmailId", "EventId"]


@each_stage
def test_the_index_is_the_one_that_provision_makes(resources: Resources, stage: str) -> None:
    emails, events = sorted(
        (each["Properties"] for each in resources(data(stage), "AWS::DynamoDB::Table")),
        key=lambda properties: "GlobalSecondaryIndexes" not in properties,
    )
    assert emails["TableName"] == Settings(stage=stage).table
    assert emails["GlobalSecondaryIndexes"] == [ATTENTION_INDEX]
    assert all(attribute in emails["AttributeDefinitions"] for attribute in ATTENTION_ATTRIBUTES)
    assert "GlobalSecondaryIndexes" not in events


@each_stage
def test_keys_rotate(resources: Resources, stage: str) -> None:
    keys = resources(data(stage), "AWS::KMS::Key")
    assert len(keys) == 2
    assert all(key["Properties"]["EnableKeyRotation"] is True for key in keys)


# The Lambda stack.


def test_the_outputs_have_the_predecessors_names(template: Callable[[str], dict[str, Any]]) -> None:
    assert template("ScalableEmailStaging")["Outputs"].keys() == {
        "HandlerArn",
        "HandlerVersion",
        "QueueUrl",
        "DatabaseTable",
        "WebhooksUrl",
    }
    assert "WebhooksUrl" not in template("ScalableEmailProduction")["Outputs"]


def test_everybody_may_call_the_webhooks_function_but_only_by_its_url(resources: Resources) -> None:
    (url,) = resources("ScalableEmailStaging", "AWS::Lambda::Url")
    assert url["Properties"]["AuthType"] == "NONE"
    assert url["Properties"]["Qualifier"] == "live"
    permissions = [each["Properties"] for each in resources("ScalableEmailStaging", "AWS::Lambda::Permission")]
    assert {(each["Action"], each["Principal"]) for each in permissions} == {
        ("lambda:InvokeFunctionUrl", "*"),
        ("lambda:InvokeFunction", "*"),
    }
    for each in permissions:
        by_url = each.get("FunctionUrlAuthType") == "NONE" or each.get("InvokedViaFunctionUrl") is True
        assert by_url
    assert resources("ScalableEmailProduction", "AWS::Lambda::Url") == []


def test_the_webhooks_function_may_only_read_its_secret_and_send_to_the_callbacks_queue(resources: Resources) -> None:
    (role,) = [each for each in resources("ScalableEmailStaging", "AWS::IAM::Role") if "ReadSecret" in str(each)]
    statements = role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    by_sid = {each["Sid"]: each for each in statements}
    assert {*by_sid} == {"Enqueue", "ReadSecret", "Log", "Trace"}
    assert by_sid["Enqueue"]["Action"] == ["sqs:GetQueueUrl", "sqs:SendMessage"]
    assert by_sid["Enqueue"]["Resource"]["Fn::Join"][1][-1] == ":emails_staging_callbacks"
    assert by_sid["ReadSecret"]["Action"] == "secretsmanager:GetSecretValue"
    assert by_sid["ReadSecret"]["Resource"]["Fn::Join"][1][-1] == ":secret:emails_staging_webhooks-??????"


def test_webhooks_need_a_zip_that_can_read_them(
    make_app: Callable[..., cdk.App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "email_lambda.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pydantic_core/_pydantic_core.cpython-313-aarch64-linux-gnu.so", b"")
    monkeypatch.setattr(lambda_stack, "ZIP", path)
    with pytest.raises(SystemExit, match="EXTRA=anymail"):
        make_app({"staging": {"webhooks": True}})


@each_stage
def test_each_queue_hands_its_messages_to_an_alias_that_reports_failures(resources: Resources, stage: str) -> None:
    settings = Settings(stage=stage)
    mappings = [
        each["Properties"]
        for each in resources(f"ScalableEmail{stage.capitalize()}", "AWS::Lambda::EventSourceMapping")
    ]
    assert {mapping["EventSourceArn"]["Fn::Join"][1][-1].strip(":") for mapping in mappings} == {
        settings.queue,
        settings.bulk_queue,
        settings.callbacks_queue,
    }
    for mapping in mappings:
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert mapping["ScalingConfig"]["MaximumConcurrency"] >= 2
        assert mapping["FunctionName"]["Fn::Join"][1][-1] == ":live"


def test_bulk_has_the_least_concurrency(resources: Resources) -> None:
    concurrency = {
        str(each["Properties"]["EventSourceArn"]).rpartition(":emails_")[2].rstrip("'])}"): each["Properties"][
            "ScalingConfig"
        ]["MaximumConcurrency"]
        for each in resources("ScalableEmailStaging", "AWS::Lambda::EventSourceMapping")
    }
    assert concurrency == {"staging": 32, "staging_bulk": 2, "staging_callbacks": 32}


def test_a_function_runs_on_what_its_zip_was_built_for_and_ends_before_its_messages_come_again(
    resources: Resources,
) -> None:
    for function in resources("ScalableEmailProduction", "AWS::Lambda::Function"):
        properties = function["Properties"]
        assert (properties["Runtime"], properties["Architectures"]) == ("python3.13", ["arm64"])
        assert properties["Timeout"] < Settings().visibility_timeout
        assert properties["TracingConfig"] == {"Mode": "Active"}
        assert properties["Environment"]["Variables"] == {
            "EMAIL_STAGE": "production",
            "EMAIL_PROVIDER": "ses",
            "EMAIL_SES_CONFIGURATION_SET": "emails_production",
            "EMAIL_ATTACHMENT_PREFIXES": "s3://mail/files/",
            "EMAIL_LOG_FORMAT": "json",
        }


@each_stage
def test_no_role_has_an_action_or_a_resource_by_a_wildcard_that_has_no_reason(resources: Resources, stage: str) -> None:
    roles = resources(f"ScalableEmail{stage.capitalize()}", "AWS::IAM::Role")
    assert len(roles) == {"staging": 3, "production": 2}[stage]
    for role in roles:
        (policy,) = role["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]:
            assert "*" not in str(statement["Action"])
            assert ("*" in str(statement["Resource"])) == (statement["Sid"] in ("Attachments", "Send", "Trace"))


def test_only_a_stage_with_attachment_prefixes_may_read_s3_and_no_more_than_below_them(resources: Resources) -> None:
    assert "s3:" not in str(resources("ScalableEmailStaging", "AWS::IAM::Role"))
    roles = resources("ScalableEmailProduction", "AWS::IAM::Role")
    statements = [each for role in roles for each in role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]]
    (attachments,) = [each for each in statements if each["Sid"] == "Attachments"]
    assert attachments["Action"] == "s3:GetObject"
    assert attachments["Resource"]["Fn::Join"][1][-1] == ":s3:::mail/files/*"


def test_only_a_stage_that_sends_by_ses_may(resources: Resources) -> None:
    assert "ses:SendEmail" not in str(resources("ScalableEmailStaging", "AWS::IAM::Role"))
    assert "ses:SendEmail" in str(resources("ScalableEmailProduction", "AWS::IAM::Role"))


# Wrong settings.


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ({"provder": "ses"}, "there is no setting provder"),
        ({"region": "eu-central-1"}, "there is no setting region"),
        ({"smtp_password": "hush"}, "everyone who may read the stack could read smtp_password"),
        ({"max_attempts": 0}, "max_attempts: Input should be greater than or equal to 1"),
        ({"webhooks": "yes"}, "webhooks should be true or false"),
        ({"visibility_timeout": 60}, "visibility_timeout is 60; should be at least 70"),
        ({"visibility_timeout": 100, "attachment_prefixes": ["s3://mail/"]}, "should be at least 110"),
    ],
)
def test_a_wrong_setting_stops_the_synthesis_and_says_which(chosen: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Stage.parse("staging", chosen)


def test_what_the_shell_says_is_no_setting_of_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_CONCURRENCY", "3")
    assert Stage.parse("staging", {}).settings.concurrency == 32


def test_settings_reach_a_function_as_its_environment_has_them() -> None:
    chosen = {"send_via": ["stub"], "stub_failures": {"ada@example.com": "permanent"}, "send_rate": 14}
    environment = Stage.parse("staging", chosen).environment
    assert environment["EMAIL_SEND_VIA"] == "stub"
    assert environment["EMAIL_STUB_FAILURES"] == '{"ada@example.com": "permanent"}'
    assert environment["EMAIL_SEND_RATE"] == "14.0"


def test_without_a_zip_it_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"build it with `make email_lambda.zip`"):
        lambda_stack.built_for(tmp_path / "email_lambda.zip")
