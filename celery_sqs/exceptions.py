"""The transport's exceptions, and the SQS errors that are temporary."""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError, CredentialRetrievalError, HTTPClientError
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from kombu.exceptions import OperationalError

from celery_sqs.sqs.errors import code_of

if TYPE_CHECKING:
    from collections.abc import Iterator

# Source: SQS API Reference, "Common Errors" and "SendMessage". Every 5xx status is temporary, too.
THROTTLED = frozenset({"KmsThrottled", "OverLimit", "RequestThrottled", "Throttling", "ThrottlingException"})


class MessageTooLarge(ValueError):
    """The message is larger than SQS allows."""


class PublishRefused(ValueError):
    """SQS refuses the message, and a retry cannot help."""


class PublishDenied(OperationalError):
    """SQS denies access to one of the worker's own queues.

    Access is expected to be allowed again, so the message of the task that published is kept.
    """

    def __init__(self, queue: str, code: str) -> None:
        super().__init__(queue, code)
        self.queue = queue
        self.code = code

    def __str__(self) -> str:
        return f"SQS denies access to our own queue {self.queue}: {self.code}"


class ChannelClosed(ConnectionError):
    """The channel is closed, because the connection was lost."""


class SqsUnavailable(ConnectionError):
    """SQS throttles the request, or cannot answer it at the moment."""


@contextmanager
def errors_translated() -> Iterator[None]:
    """Raise SqsUnavailable instead of an error for which a retry may help. Other errors pass unchanged."""
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code_of(error) in THROTTLED:
            raise SqsUnavailable(str(error)) from error
        raise
    except (HTTPClientError, BotocoreConnectionError, CredentialRetrievalError) as error:
        # The causes are a time-out, a lost or refused connection, an unknown host, or a metadata service that does not
        # answer.
        raise SqsUnavailable(str(error)) from error
