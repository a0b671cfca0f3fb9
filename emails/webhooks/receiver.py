"""Decides what a service gets as an answer. Programs around it receive requests and send the messages to SQS."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from celery_sqs.sqs.batches import pack, try_batch
from emails.resources import find_queue
from emails.webhooks.envelope import TooLarge, accept
from emails.webhooks.request import NotVerified
from emails.webhooks.signatures import SCHEMES, basic
from settings import SettingsError
from settings.aws import client
from settings.environment import variable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from celery_sqs.sqs.queue import Queue
    from emails.webhooks.request import WebhookRequest
    from emails.webhooks.settings import WebhookSettings
    from settings import Settings

logger = logging.getLogger(__name__)

# Services wait for at least about 10 seconds. Within this time, SQS is asked twice.
READ_TIMEOUT, ATTEMPTS = 3.0, 2
PATH = re.compile(r"/webhooks/([a-z_]{1,40})/?")


@dataclass(frozen=True)
class Answer:
    """A status without a body. The status is for after SQS has confirmed the messages."""

    status: HTTPStatus
    messages: tuple[str, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


class WebhookReceiver:
    """Answers the requests of the services whose secrets are set."""

    def __init__(self, settings: WebhookSettings) -> None:
        """Check the secrets.

        Raises:
            SettingsError: no secret is set, a public key is not one, or the extra that reads it is missing.
        """
        found = {name: scheme.secrets(settings) for name, scheme in SCHEMES.items()}
        self._secrets = {name: secrets for name, secrets in found.items() if secrets}
        if not self._secrets:
            names = ", ".join(variable(scheme.setting) for scheme in SCHEMES.values())
            raise SettingsError(f"No service's webhooks are accepted. Set at least one of {names}")
        for name in self._secrets:
            SCHEMES[name].check(settings)

    @property
    def providers(self) -> list[str]:
        return sorted(self._secrets)

    def answer(self, method: str, path: str, request: WebhookRequest, now: float) -> Answer:
        """Return the answer, and the messages that must be in SQS before it is given."""
        found = PATH.fullmatch(path)
        if not found or found[1] not in self._secrets:
            return Answer(HTTPStatus.NOT_FOUND)
        if method in ("GET", "HEAD"):  # some services check the URL like this when it is set up
            return Answer(HTTPStatus.OK)
        if method != "POST":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD, POST"})
        provider = found[1]
        try:
            return Answer(HTTPStatus.OK, tuple(accept(provider, request, self._secrets[provider], now)))
        except NotVerified:
            logger.warning("a webhook of %s has a wrong signature or password", provider)
            is_basic = SCHEMES[provider].verify is basic
            headers = {"WWW-Authenticate": 'Basic realm="webhooks", charset="UTF-8"'} if is_basic else {}
            return Answer(HTTPStatus.UNAUTHORIZED, headers=headers)
        except TooLarge:
            logger.warning("a webhook of %s is too large", provider)
            return Answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def callbacks_queue(settings: Settings) -> Queue:
    """Return the callbacks queue, whose client gives up before a service does."""
    sqs = client("sqs", settings, read_timeout=READ_TIMEOUT, attempts=ATTEMPTS)
    return find_queue(sqs, settings.callbacks_queue)


def batches(messages: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    """Yield the messages as parameters of SQS's batches."""
    return pack([{"MessageBody": message} for message in messages], lambda entry: len(entry["MessageBody"]))


def send(queue: Queue, batch: list[dict[str, Any]]) -> list[str]:
    """Send the batch once. Return the error code of each message, or "" if SQS confirmed it."""
    codes = try_batch(queue.send_batch, batch)
    if failed := sorted({code for code in codes if code}):
        logger.error("SQS did not confirm webhooks, so the services will send them again: %s", ", ".join(failed))
    return codes
