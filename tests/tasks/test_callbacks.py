"""Callbacks through the real queue and a real worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from emails.store import EventStore
from tests.emails.callbacks.notifications import CONFIRMATIONS, RECIPIENT, by_sns, confirmation, event, feedback

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.pipeline import Pipeline


@pytest.fixture
def call_back(pipeline: Pipeline) -> Callable[..., str]:
    """Put a body on the callbacks queue. Return its MessageId."""
    return lambda body: pipeline.send(pipeline.settings.callbacks_queue, body)


def history(pipeline: Pipeline, email_id: str) -> list[str]:
    events = EventStore.from_settings(pipeline.settings)
    return [item["EventType"] for item in events.of(email_id)]


def test_what_a_provider_says_is_in_the_row_the_history_and_the_log(
    pipeline: Pipeline, row: dict[str, Any], call_back: Callable[..., str]
) -> None:
    email_id = row["EmailId"]
    pipeline.store.put(row)
    pipeline.enqueue(email_id)
    pipeline.wait_until(lambda: pipeline.status(row) == "Sent")
    for notification, status in (
        (event("Send", email_id), "Sent"),
        (event("Delivery", email_id), "Delivered"),
        (feedback("Complaint", email_id), "Complained"),
    ):
        call_back(by_sns(notification))
        pipeline.wait_until(lambda status=status: pipeline.status(row) == status)
    # It comes by raw message delivery, and too late to change the status.
    call_back(json.dumps(event("Bounce", email_id)))
    pipeline.wait_until(lambda: "bounced: already Complained" in pipeline.said(email_id))
    assert sorted(history(pipeline, email_id)) == ["bounced", "complained", "delivered", "sent"]
    assert pipeline.status(row) == "Complained"
    assert {"Sent", "delivered: Delivered", "complained: Complained"} <= set(pipeline.said(email_id))
    assert RECIPIENT not in pipeline.log()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("not json", "NotJson"),
        ('{"email_id": "email-1"}', "UnknownCallback"),
        (json.dumps(feedback("Bounce", None)), "NoEmailId"),
        (json.dumps(event("Bounce", "nobody-s")), "EmailNotFound"),
        *((confirmation(kind), kind) for kind in CONFIRMATIONS),
    ],
)
def test_what_is_no_callback_of_an_email_of_ours_is_a_dead_letter_with_its_reason(
    pipeline: Pipeline, call_back: Callable[..., str], body: str, reason: str
) -> None:
    call_back(body)
    queue = f"{pipeline.settings.callbacks_queue}_dlq"
    # Tests of the other raw queue also send some of these bodies.
    letter = pipeline.find_dead_letter(lambda letter: (letter.queue, letter.body) == (queue, body))
    assert letter.reason == reason
    assert RECIPIENT not in letter.detail


def test_a_provider_s_test_of_its_topic_is_noted_and_gone(pipeline: Pipeline, call_back: Callable[..., str]) -> None:
    call_back("Successfully validated SNS topic for Amazon SES event publishing.")
    pipeline.wait_until(lambda: "a provider tested its topic" in pipeline.log())
