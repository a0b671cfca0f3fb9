"""Notifications as Amazon SES sends them, in the forms of the examples in its Developer Guide."""

from __future__ import annotations

import base64
import json
from typing import Any

Json = dict[str, Any]

RECIPIENT = "ada@example.com"
SENT_AT, HAPPENED_AT = "2026-01-31T12:00:00.000Z", "2026-01-31T12:00:05.123Z"
MESSAGE_ID = "0100019a-1111-2222-3333-444455556666-000000"

# The part that each kind has besides `mail`, and its name.
DETAILS: dict[str, tuple[str, Json]] = {
    "Bounce": (
        "bounce",
        {
            "bounceType": "Permanent",
            "bounceSubType": "General",
            "bouncedRecipients": [
                {
                    "emailAddress": RECIPIENT,
                    "action": "failed",
                    "status": "5.1.1",
                    "diagnosticCode": "smtp; 550 5.1.1 <ada@example.com>... User unknown",
                }
            ],
            "timestamp": HAPPENED_AT,
            "feedbackId": "0100019a-feedback",
            "reportingMTA": "dsn; mta.example.com",
        },
    ),
    "Complaint": (
        "complaint",
        {
            "complainedRecipients": [{"emailAddress": RECIPIENT}],
            "timestamp": HAPPENED_AT,
            "feedbackId": "0100019a-feedback",
            "complaintSubType": None,
            "complaintFeedbackType": "abuse",
            "userAgent": "Amazon SES Mailbox Simulator",
            "arrivalDate": HAPPENED_AT,
        },
    ),
    "Delivery": (
        "delivery",
        {
            "timestamp": HAPPENED_AT,
            "processingTimeMillis": 546,
            "recipients": [RECIPIENT],
            "smtpResponse": "250 ok:  Message 64111812 accepted",
            "reportingMTA": "a8-70.smtp-out.amazonses.com",
        },
    ),
    "DeliveryDelay": (
        "deliveryDelay",
        {
            "delayType": "MailboxFull",
            "delayedRecipients": [
                {"emailAddress": RECIPIENT, "status": "4.2.2", "diagnosticCode": "smtp; 452 4.2.2 mailbox full"}
            ],
            "expirationTime": HAPPENED_AT,
            "timestamp": HAPPENED_AT,
        },
    ),
    "Send": ("send", {}),
    "Reject": ("reject", {"reason": "Bad content"}),
    "Rendering Failure": ("failure", {"templateName": "Hello", "errorMessage": "Attribute 'name' is not present"}),
    "Open": ("open", {"ipAddress": "192.0.2.1", "timestamp": HAPPENED_AT, "userAgent": "Mozilla/5.0"}),
    "Click": (
        "click",
        {"ipAddress": "192.0.2.1", "link": "https://example.com/", "linkTags": None, "timestamp": HAPPENED_AT},
    ),
    "Subscription": (
        "subscription",
        {
            "contactList": "news",
            "timestamp": HAPPENED_AT,
            "source": "UnsubscribeHeader",
            "newTopicPreferences": {
                "unsubscribeAll": False,
                "topicSubscriptionStatus": [{"topicName": "offers", "subscriptionStatus": "OptOut"}],
            },
            "oldTopicPreferences": {"unsubscribeAll": False, "topicSubscriptionStatus": []},
        },
    ),
}


def encoded(email_id: str) -> str:
    return base64.urlsafe_b64encode(email_id.encode()).rstrip(b"=").decode()


def mail(*destination: str) -> Json:
    return {
        "timestamp": SENT_AT,
        "source": "shop@example.com",
        "sourceArn": "arn:aws:ses:eu-central-1:123456789012:identity/example.com",
        "sendingAccountId": "123456789012",
        "messageId": MESSAGE_ID,
        "destination": list(destination or (RECIPIENT,)),
        "headersTruncated": False,
    }


def event(kind: str, email_id: str, *destination: str, **changes: Any) -> Json:
    """Return a notification from a configuration set's event publishing, which has tags."""
    name, details = DETAILS[kind]
    tags = {
        "ses:configuration-set": ["emails_test"],
        "ses:source-ip": ["192.0.2.1"],
        "email_id": [encoded(email_id)],
    }
    return {"eventType": kind, "mail": mail(*destination) | {"tags": tags}, name: details | changes}


def feedback(kind: str, email_id: str | None, **changes: Any) -> Json:
    """Return an identity's feedback notification, without tags, but with the headers if the identity includes them."""
    name, details = DETAILS[kind]
    included = {
        "headers": [
            {"name": "From", "value": "Shop <shop@example.com>"},
            {"name": "X-Email-Id", "value": encoded(email_id or "")},
        ]
    }
    return {"notificationType": kind, "mail": mail() | (included if email_id else {}), name: details | changes}


def by_sns(notification: Json | str) -> str:
    """Wrap a notification as SNS does if raw message delivery is off."""
    message = notification if isinstance(notification, str) else json.dumps(notification)
    return json.dumps(_envelope(message))


CONFIRMATIONS = ("SubscriptionConfirmation", "UnsubscribeConfirmation")


def confirmation(
    kind: str, message: str = "To confirm the subscription, visit the SubscribeURL", token: str = "t0ken"
) -> str:
    """Return what SNS sends if another account subscribes the queue, or if a subscription ends.

    Source: Amazon SNS Developer Guide, "HTTP/HTTPS subscription confirmation JSON format".
    """
    url = f"https://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription&Token={token}"
    return json.dumps(_envelope(message) | {"Type": kind, "Token": token, "SubscribeURL": url})


def _envelope(message: str) -> Json:
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": "arn:aws:sns:eu-central-1:123456789012:emails_test_callbacks",
        "Subject": "Amazon SES Email Event Notification",
        "Message": message,
        "Timestamp": HAPPENED_AT,
        "SignatureVersion": "1",
    }
