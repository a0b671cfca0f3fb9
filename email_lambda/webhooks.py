"""The function behind a function URL, which receives what services report and puts it on the callbacks queue.

It is not in `main`, because it may not read rows or send emails, and so it needs no providers.
"""

from __future__ import annotations

import base64
import json
import logging
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from celery_sqs.sqs.errors import code_of
from emails.logs import formatter, write_by
from emails.webhooks.receiver import Answer, WebhookReceiver, batches, callbacks_queue, send
from emails.webhooks.request import WebhookRequest
from emails.webhooks.settings import WebhookSettings
from settings import SettingsError, get_settings
from settings.aws import client
from settings.environment import variable

if TYPE_CHECKING:
    from collections.abc import Callable

    from aws_lambda_powertools.utilities.typing import LambdaContext

    from celery_sqs.sqs.queue import Queue

logger = logging.getLogger(__name__)

KEPT_SECONDS = 300  # how long a replaced secret may still be used


class Webhooks:
    """A Lambda function for a function URL.

    Source of the event's format: AWS Lambda Developer Guide, "Invoking Lambda function URLs", payload format 2.0.
    """

    def __init__(self, read_secrets: Callable[[], str], queue: Queue) -> None:
        """Read the secrets: JSON with the names of the settings, which begin with EMAIL_.

        Raises:
            SettingsError: a secret is wrong.
        """
        self._read_secrets = read_secrets
        self._queue = queue
        self._receiver = WebhookReceiver(_settings_in(read_secrets()))
        self._read_at = time.monotonic()

    def __call__(self, event: dict[str, Any], _: LambdaContext | None = None) -> dict[str, Any]:
        self._read_again()
        body = event.get("body") or ""
        content = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
        headers = {name.lower(): value for name, value in event["headers"].items()}
        method = event["requestContext"]["http"]["method"]
        answer = self._receiver.answer(method, event["rawPath"], WebhookRequest(headers, content), time.time())
        if any(any(send(self._queue, batch)) for batch in batches(answer.messages)):
            answer = Answer(HTTPStatus.SERVICE_UNAVAILABLE)
        return {"statusCode": int(answer.status), "headers": dict(answer.headers)}

    def _read_again(self) -> None:
        if time.monotonic() - self._read_at < KEPT_SECONDS:
            return
        self._read_at = time.monotonic()
        try:
            self._receiver = WebhookReceiver(_settings_in(self._read_secrets()))
        except (BotoCoreError, ClientError) as error:
            logger.error(
                "cannot read the secrets again; keeping the old ones: %s", code_of(error) or type(error).__name__
            )
        except SettingsError as error:
            logger.error("the new secrets are wrong; keeping the old ones: %s", error)


def _settings_in(text: str) -> WebhookSettings:
    fields = {variable(field): field for field in WebhookSettings.model_fields}
    try:
        given = json.loads(text)
        unknown = sorted(given.keys() - fields.keys())
    except (ValueError, AttributeError):
        raise SettingsError("The secret is not JSON with the names of settings, such as EMAIL_POSTMARK_…") from None
    if unknown:
        raise SettingsError(f"The secret has names that are not settings of webhooks: {', '.join(unknown)}")
    return WebhookSettings.read(**{fields[name]: value for name, value in given.items()})


def _from_settings() -> Webhooks:
    settings = get_settings()
    write_by(logging.StreamHandler(sys.stdout), logging.INFO, formatter(settings.log_format))
    secrets = client("secretsmanager", settings)
    return Webhooks(
        lambda: str(secrets.get_secret_value(SecretId=settings.webhook_secret)["SecretString"]),
        callbacks_queue(settings),
    )


def __getattr__(name: str) -> Webhooks:
    """Make the function when Lambda asks for it, so that tests can import this module without a secret."""
    if name != "receive_webhooks":
        raise AttributeError(name)
    function = globals()[name] = _from_settings()
    return function
