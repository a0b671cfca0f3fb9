"""The Lambda stack: the pipeline as Lambda functions that use a data stack."""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING

import aws_cdk as cdk
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs

from infrastructure.uv import ROOT
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from constructs import Construct

    from infrastructure.data_stack import DataStack
    from infrastructure.stage import Stage

ZIP = ROOT / "email_lambda.zip"
MEMORY_MB = 512
LOG_RETENTION = logs.RetentionDays.THREE_MONTHS
# A message's visibility timeout starts a little before the function does.
HEAD_START_SECONDS = 30
LEAST_CONCURRENCY = 2  # the lowest that SQS allows; bulk gets it, so that it delays no other email
BATCH_SIZE = 10
WEBHOOK_SECONDS = 20  # longer than SQS may take

ARCHITECTURES = {"x86_64": lambda_.Architecture.X86_64, "aarch64": lambda_.Architecture.ARM_64}


class LambdaStack(cdk.Stack):
    """The stack `ScalableEmail<Stage>`."""

    def __init__(self, scope: Construct, stage: Stage, data: DataStack) -> None:
        super().__init__(scope, stage.stack_name, tags={"stage": stage.settings.stage})
        self._stage = stage
        settings = stage.settings
        self.add_stack_dependency(data)

        sender = self._function(
            "SendEmails", "send_emails", [*self._may_consume(settings.raw_queues), *self._may_send()]
        )
        self._consume(sender, "Raw", settings.queue, settings.concurrency)
        self._consume(sender, "Bulk", settings.bulk_queue, LEAST_CONCURRENCY)
        recorder = self._function("RecordCallbacks", "record_callbacks", self._may_consume([settings.callbacks_queue]))
        self._consume(recorder, "Callbacks", settings.callbacks_queue, settings.concurrency)

        if stage.webhooks:
            self._webhooks()

        cdk.CfnOutput(self, "HandlerArn", value=sender.function_arn)
        cdk.CfnOutput(self, "HandlerVersion", value=sender.version.version)
        cdk.CfnOutput(self, "QueueUrl", value=data.queue.queue_url)
        cdk.CfnOutput(self, "DatabaseTable", value=data.table.table_name)

    def _consume(self, function: lambda_.Alias, name: str, queue: str, concurrency: int) -> None:
        function.add_event_source_mapping(
            name,
            event_source_arn=self._queue_arn(queue),
            batch_size=BATCH_SIZE,
            max_concurrency=max(concurrency, LEAST_CONCURRENCY),
            report_batch_item_failures=True,
        )

    def _webhooks(self) -> None:
        """Create the function for webhooks, and its URL, which everybody may call: the function checks signatures."""
        if not has_anymail(ZIP):
            raise SystemExit(f"{ZIP} cannot read webhooks: build it with `make email_lambda.zip EXTRA=anymail`.")
        function = self._function(
            "ReceiveWebhooks", "receive_webhooks", self._may_enqueue_callbacks(), "webhooks", WEBHOOK_SECONDS
        )
        # This also allows lambda:InvokeFunction through the URL, without which new URLs have answered 403 since October
        # 2025 (AWS Lambda Developer Guide, "Control access to Lambda function URLs").
        url = function.add_function_url(auth_type=lambda_.FunctionUrlAuthType.NONE)
        cdk.CfnOutput(self, "WebhooksUrl", value=f"{url.url}webhooks/")

    def _may_enqueue_callbacks(self) -> list[iam.PolicyStatement]:
        settings = self._stage.settings
        # Secrets Manager adds six random characters to a secret's name.
        secret = self.format_arn(
            service="secretsmanager",
            resource="secret",
            resource_name=f"{settings.webhook_secret}-??????",
            arn_format=cdk.ArnFormat.COLON_RESOURCE_NAME,
        )
        return [
            allow("Enqueue", ["sqs:GetQueueUrl", "sqs:SendMessage"], [self._queue_arn(settings.callbacks_queue)]),
            allow("ReadSecret", ["secretsmanager:GetSecretValue"], [secret]),
        ]

    def _function(
        self,
        name: str,
        handler: str,
        statements: Sequence[iam.PolicyStatement],
        module: str = "main",
        seconds: int | None = None,
    ) -> lambda_.Alias:
        settings = self._stage.settings
        runtime, architecture = built_for(ZIP)
        function_name = f"{settings.queue}_{handler}"
        log_group = logs.LogGroup(
            self,
            f"{name}Log",
            log_group_name=f"/aws/lambda/{function_name}",
            retention=LOG_RETENTION,
            removal_policy=cdk.RemovalPolicy.RETAIN if self._stage.is_production else cdk.RemovalPolicy.DESTROY,
        )
        function = lambda_.Function(
            self,
            name,
            function_name=function_name,
            runtime=runtime,
            architecture=architecture,
            code=lambda_.Code.from_asset(str(ZIP)),
            handler=f"email_lambda.{module}.{handler}",
            environment=self._stage.environment,
            memory_size=MEMORY_MB,
            timeout=cdk.Duration.seconds(seconds or settings.visibility_timeout - HEAD_START_SECONDS),
            tracing=lambda_.Tracing.ACTIVE,
            log_group=log_group,
            role=self._role(f"{name}Role", log_group, statements),
        )
        acknowledge(function, "L1", "the zip is built and tested for the Python that built it, and runs on no other")
        return lambda_.Alias(self, f"{name}Live", alias_name="live", version=function.current_version)

    def _role(self, name: str, log_group: logs.LogGroup, statements: Sequence[iam.PolicyStatement]) -> iam.IRole:
        """Create a role with these statements, and without those that CDK would add by itself."""
        own = [
            allow("Log", ["logs:CreateLogStream", "logs:PutLogEvents"], [log_group.log_group_arn]),
            allow("Trace", ["xray:PutTelemetryRecords", "xray:PutTraceSegments"], ["*"]),
        ]
        role = iam.Role(
            self,
            name,
            assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"),
            inline_policies={"email-service": iam.PolicyDocument(statements=[*statements, *own])},
        )
        acknowledge(role, "IAM5[Resource::*]", "X-Ray's two actions do not support resources")
        if any(statement.sid == "Send" for statement in statements):
            everyone = "arn:<AWS::Partition>:ses:<AWS::Region>:<AWS::AccountId>:identity/*"
            acknowledge(role, f"IAM5[Resource::{everyone}]", "a row may name any sender that the account has verified")
        for uri in self._stage.settings.attachment_prefixes:
            objects = f"arn:<AWS::Partition>:s3:::{uri.removeprefix('s3://')}*"
            acknowledge(
                role, f"IAM5[Resource::{objects}]", "a row may name any object below one of the stage's prefixes"
            )
        return role.without_policy_updates()

    def _may_consume(self, queues: Sequence[str]) -> list[iam.PolicyStatement]:
        """Return what every function may do, and its event source mapping, which uses the function's role."""
        settings = self._stage.settings
        ours = [self._queue_arn(queue) for queue in queues]
        dead_letters = [self._queue_arn(dead_letter_queue(queue)) for queue in queues]
        return [
            allow("Consume", ["sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"], ours),
            allow("WaitAndBury", ["sqs:GetQueueUrl", "sqs:SendMessage"], [*ours, *dead_letters]),
            # A function handles one email at a time, so it never groups requests, which would need two more actions.
            allow("Rows", ["dynamodb:GetItem", "dynamodb:UpdateItem"], [self._table_arn(settings.table)]),
            allow("Events", ["dynamodb:PutItem"], [self._table_arn(settings.events_table)]),
        ]

    def _may_send(self) -> list[iam.PolicyStatement]:
        settings = self._stage.settings
        statements = []
        if "ses" in settings.providers:
            # SendEmail needs both, because it is given a raw message. docs/iam/worker.json has both too.
            actions = ["ses:SendEmail", "ses:SendRawEmail"]
            resources = [
                self.format_arn(service="ses", resource="identity", resource_name="*"),
                self.format_arn(
                    service="ses", resource="configuration-set", resource_name=settings.ses_configuration_set
                ),
            ]
            statements.append(allow("Send", actions, resources))
        if settings.attachment_prefixes:
            objects = [
                f"arn:{self.partition}:s3:::{uri.removeprefix('s3://')}*" for uri in settings.attachment_prefixes
            ]
            statements.append(allow("Attachments", ["s3:GetObject"], objects))
        return statements

    def _table_arn(self, table: str) -> str:
        return str(self.format_arn(service="dynamodb", resource="table", resource_name=table))

    def _queue_arn(self, queue: str) -> str:
        return str(self.format_arn(service="sqs", resource=queue))


def allow(sid: str, actions: list[str], resources: list[str]) -> iam.PolicyStatement:
    return iam.PolicyStatement(sid=sid, actions=actions, resources=resources)


def acknowledge(construct: Construct, rule: str, reason: str) -> None:
    """Tell cdk-nag why the construct deviates from one of its AwsSolutions rules."""
    rule = f"AwsSolutions::AwsSolutions-{rule}"
    cdk.Validations.of(construct).acknowledge(cdk.Acknowledgment(id=rule, reason=reason))


def has_anymail(path: Path) -> bool:
    return any(name.startswith("anymail/") for name in zipfile.ZipFile(path).namelist())


def built_for(path: Path) -> tuple[lambda_.Runtime, lambda_.Architecture]:
    """Return the runtime and architecture for which the zip was built, from the name of its compiled module.

    Raises:
        SystemExit: There is no zip, or it was not built by `make email_lambda.zip`.
    """
    if not path.exists():
        raise SystemExit(f"There is no {path}: build it with `make email_lambda.zip`.")
    for name in zipfile.ZipFile(path).namelist():
        if found := re.search(r"\.cpython-3(\d+)-(\w+)-linux-gnu\.so$", name):
            runtime = lambda_.Runtime(f"python3.{found[1]}", lambda_.RuntimeFamily.PYTHON)
            return runtime, ARCHITECTURES[found[2]]
    raise SystemExit(f"{path} was not built by `make email_lambda.zip`.")
