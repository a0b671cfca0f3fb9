"""Emails are sent by SES and by SMTP, and SES's callbacks come back by SNS through the callbacks' queue."""

from __future__ import annotations

import json
import urllib.request
import uuid
from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from pydantic import HttpUrl

from emails.store import EventStore
from settings import Settings
from settings.aws import client
from tests.emails.callbacks.notifications import encoded, event, feedback
from tests.support.pipeline import Pipeline, running_worker
from tests.support.smtp_server import SmtpServer
from tests.support.smtp_server import running as running_smtp
from tests.support.sqs import emulator_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
pytestmark = pytest.mark.slow


class Stage(NamedTuple):
    pipeline: Pipeline
    smtp: SmtpServer
    publish: Callable[[dict[str, Any]], object]  # publishes to the topic, as SES would


@pytest.fixture(params=["envelope", "raw delivery"])
def stage(
    request: pytest.FixtureRequest, emulator: str, tmp_path: Path, wait_until: Callable[..., None]
) -> Iterator[Stage]:
    """A worker that sends by SES, or by SMTP if a row asks for it, and a topic to which its queue is subscribed."""
    ses = client("sesv2", Settings(endpoint_url=HttpUrl(emulator)), read_timeout=10, attempts=1)
    if not ses.list_email_identities()["EmailIdentities"]:
        ses.create_email_identity(EmailIdentity="example.com")
    with running_smtp(SmtpServer()) as smtp:
        environment = {
            "EMAIL_PROVIDER": "ses",
            "EMAIL_SES_CONFIGURATION_SET": "emails",
            "EMAIL_SEND_VIA": "smtp",
            "EMAIL_SMTP_HOST": "127.0.0.1",
            "EMAIL_SMTP_PORT": str(smtp.port),
            "EMAIL_SMTP_SECURITY": "none",
        }
        with running_worker(emulator, tmp_path, environment) as worker:
            settings = worker.settings
            sns = emulator_client("sns", emulator)
            topic = sns.create_topic(Name=f"callbacks-{uuid.uuid4().hex[:8]}")["TopicArn"]
            sqs = client("sqs", settings)
            url = sqs.get_queue_url(QueueName=settings.callbacks_queue)["QueueUrl"]
            arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            raw = {"RawMessageDelivery": "true"} if request.param == "raw delivery" else {}
            sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=raw)

            def publish(notification: dict[str, Any]) -> object:
                return sns.publish(TopicArn=topic, Message=json.dumps(notification))

            yield Stage(Pipeline(worker, wait_until), smtp, publish)


def test_emails_are_sent_by_ses_and_by_smtp_and_what_became_of_them_comes_back(
    stage: Stage, row: dict[str, Any]
) -> None:
    pipeline = stage.pipeline
    rows = {
        "Delivered": row | {"EmailId": "delivered"},
        "Bounced": row | {"EmailId": "bounced"},
        "Complained": row | {"EmailId": "complained", "SendVia": "smtp"},
    }
    for each in rows.values():
        pipeline.store.put(each)
    pipeline.enqueue(*(each["EmailId"] for each in rows.values()))
    for each in rows.values():
        pipeline.wait_until(lambda each=each: pipeline.status(each) == "Sent")
    (by_smtp,) = stage.smtp.messages
    assert message_from_bytes(by_smtp.content, policy=default)["X-Email-Id"] == encoded("complained")
    assert "send_rate=14" in pipeline.log(), "SES's quota"
    stage.publish(event("Delivery", "delivered"))
    stage.publish(event("Delivery", "bounced"))
    stage.publish(event("Bounce", "bounced"))
    stage.publish(feedback("Complaint", "complained"))  # an email that was sent by SMTP has no tags
    for status, each in rows.items():
        pipeline.wait_until(lambda status=status, each=each: pipeline.status(each) == status)
    history = EventStore.from_settings(pipeline.settings)
    pipeline.wait_until(lambda: len(history.of("bounced")) == 2)
    assert {item["EventType"] for item in history.of("bounced")} == {"delivered", "bounced"}
    receipts = {name: pipeline.store.get(each["EmailId"]) or {} for name, each in rows.items()}
    assert {name: found["Provider"] for name, found in receipts.items()} == {
        "Delivered": "ses",
        "Bounced": "ses",
        "Complained": "smtp",
    }
    with urllib.request.urlopen(f"{pipeline.settings.endpoint}/_ministack/ses/messages") as answer:
        accepted = answer.read().decode()
    assert all(receipts[name]["ProviderMessageId"] in accepted for name in ("Delivered", "Bounced"))
