"""The data stack: the queues and tables that `email-service provision` creates, with keys and SES's callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aws_cdk as cdk
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_ses as ses
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs

from emails.resources import DEAD_LETTER_RETENTION_SECONDS, EXPIRY_ATTRIBUTE, MAX_RECEIVES
from emails.store import attention
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from constructs import Construct

    from infrastructure.stage import Stage

# The events that SES reports; docs/providers.md has the same list. SEND resolves an Unknown email even if its other
# callbacks are late. Opens and clicks are not reported, because they change no status.
EVENTS = (
    ses.EmailSendingEvent.SEND,
    ses.EmailSendingEvent.REJECT,
    ses.EmailSendingEvent.BOUNCE,
    ses.EmailSendingEvent.COMPLAINT,
    ses.EmailSendingEvent.DELIVERY,
    ses.EmailSendingEvent.DELIVERY_DELAY,
    ses.EmailSendingEvent.RENDERING_FAILURE,
    ses.EmailSendingEvent.SUBSCRIPTION,
)


class DataStack(cdk.Stack):
    """The queues and tables. They serve Lambda functions and Celery workers alike, and depend on neither."""

    def __init__(self, scope: Construct, stage: Stage) -> None:
        super().__init__(
            scope,
            f"{stage.stack_name}Data",
            termination_protection=stage.is_production,
            tags={"stage": stage.settings.stage},
        )
        self._stage = stage
        settings = stage.settings
        self.removal_policy = cdk.RemovalPolicy.RETAIN if stage.is_production else cdk.RemovalPolicy.DESTROY

        tables_key = self._key("Tables", "dynamodb")
        self.table = self._table("Emails", settings.table, tables_key)
        self.table.add_global_secondary_index(
            index_name=attention.INDEX,
            partition_key=dynamodb.Attribute(name=attention.KEY, type=dynamodb.AttributeType.STRING),
            sort_key=dynamodb.Attribute(name=attention.SINCE, type=dynamodb.AttributeType.NUMBER),
            projection_type=dynamodb.ProjectionType.INCLUDE,
            non_key_attributes=list(attention.PROJECTED),
        )
        self._table("Events", settings.events_table, tables_key, sort_key="EventId", ttl=EXPIRY_ATTRIBUTE)

        # These queues carry only ids. They use SQS's own key, so that producers need no permission for another key.
        self.queue = self._queue("Raw", settings.queue)
        self._queue("Bulk", settings.bulk_queue)
        self._queue("Tasks", settings.tasks_queue)

        # Callbacks name recipients, so their queue has a key of its own.
        callbacks_key = self._key("Callbacks", "sqs")
        self._callbacks(self._queue("Callbacks", settings.callbacks_queue, callbacks_key), callbacks_key)

    def _key(self, name: str, service: str) -> kms.Key:
        """Create a key for tables or queues. Everyone who may use them may use the key, but only through their service.

        Source: Amazon DynamoDB Developer Guide, "DynamoDB encryption at rest: usage notes", example of a key policy.
        """
        key = kms.Key(
            self,
            f"{name}Key",
            alias=f"emails_{self._stage.settings.stage}_{name.lower()}",
            description=f"email-service: {name.lower()} of {self._stage.settings.stage}",
            enable_key_rotation=True,
            removal_policy=self.removal_policy,
        )
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid=f"Through{service.capitalize()}",
                principals=[iam.AnyPrincipal()],
                actions=[
                    "kms:CreateGrant",
                    "kms:Decrypt",
                    "kms:DescribeKey",
                    "kms:Encrypt",
                    "kms:GenerateDataKey*",
                    "kms:ReEncrypt*",
                ],
                resources=["*"],
                conditions={
                    "StringEquals": {
                        "kms:CallerAccount": self.account,
                        "kms:ViaService": f"{service}.{self.region}.{self.url_suffix}",
                    }
                },
            )
        )
        return key

    def _table(self, name: str, table: str, key: kms.Key, sort_key: str = "", ttl: str = "") -> dynamodb.Table:
        string = dynamodb.AttributeType.STRING
        return dynamodb.Table(
            self,
            f"{name}Table",
            table_name=table,
            partition_key=dynamodb.Attribute(name="EmailId", type=string),
            sort_key=dynamodb.Attribute(name=sort_key, type=string) if sort_key else None,
            time_to_live_attribute=ttl or None,
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
            encryption_key=key,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            deletion_protection=self._stage.is_production,
            removal_policy=self.removal_policy,
        )

    def _queue(self, name: str, queue: str, key: kms.Key | None = None) -> sqs.Queue:
        common = {
            "encryption": sqs.QueueEncryption.KMS if key else sqs.QueueEncryption.SQS_MANAGED,
            "encryption_master_key": key,
            "data_key_reuse": cdk.Duration.days(1) if key else None,  # a KMS request a day, not every five minutes
            "enforce_ssl": True,
            "removal_policy": self.removal_policy,
        }
        dead_letters = sqs.Queue(
            self,
            f"{name}DeadLetters",
            queue_name=dead_letter_queue(queue),
            retention_period=cdk.Duration.seconds(DEAD_LETTER_RETENTION_SECONDS),
            **common,
        )
        return sqs.Queue(
            self,
            f"{name}Queue",
            queue_name=queue,
            visibility_timeout=cdk.Duration.seconds(self._stage.settings.visibility_timeout),
            dead_letter_queue=sqs.DeadLetterQueue(max_receive_count=MAX_RECEIVES, queue=dead_letters),
            **common,
        )

    def _callbacks(self, queue: sqs.Queue, key: kms.Key) -> None:
        """Connect SES to the queue through a topic."""
        name = self._stage.settings.callbacks_queue
        topic = sns.Topic(self, "CallbacksTopic", topic_name=name, master_key=key, enforce_ssl=True)
        sns.Subscription(
            self,
            "CallbacksSubscription",
            topic=topic,
            endpoint=queue.queue_arn,
            protocol=sns.SubscriptionProtocol.SQS,
            raw_message_delivery=True,
        )
        topic_arn = self.format_arn(
            service="sns", resource=name
        )  # from its name, since the topic itself depends on the key
        sns_principal = iam.ServicePrincipal("sns.amazonaws.com")
        of_the_topic = {"ArnEquals": {"aws:SourceArn": topic_arn}}
        queue.add_to_resource_policy(
            iam.PolicyStatement(
                sid="TopicSends",
                principals=[sns_principal],
                actions=["sqs:SendMessage"],
                resources=[queue.queue_arn],
                conditions=of_the_topic,
            )
        )
        to_encrypt = ["kms:Decrypt", "kms:GenerateDataKey*"]
        key.add_to_resource_policy(
            iam.PolicyStatement(
                sid="TopicSends",
                principals=[sns_principal],
                actions=to_encrypt,
                resources=["*"],
                conditions=of_the_topic,
            )
        )
        # Amazon SES Developer Guide, "Set up an Amazon SNS event destination", shows no condition for the key.
        ses_principal = iam.ServicePrincipal("ses.amazonaws.com")
        key.add_to_resource_policy(
            iam.PolicyStatement(sid="SesPublishes", principals=[ses_principal], actions=to_encrypt, resources=["*"])
        )
        self.configuration_set = ses.ConfigurationSet(
            self,
            "ConfigurationSet",
            configuration_set_name=self._stage.settings.ses_configuration_set,
            reputation_metrics=True,
        )
        self.configuration_set.add_event_destination(
            "Callbacks",
            configuration_set_event_destination_name=name,
            destination=ses.EventDestination.sns_topic(topic),
            events=list(EVENTS),
        )
