"""What the transport raises, and which of SQS's errors pass by themselves."""

from __future__ import annotations

from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError, CredentialRetrievalError, HTTPClientError
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    from collections.abc import Iterator

# SQS API Reference, "Common Errors" and "SendMessage". Every 5xx is one of these, too.
THROTTLED = frozenset({"KmsThrottled", "OverLimit", "RequestThrottled", "Throttling", "ThrottlingException"})


class MessageTooLarge(ValueError):
    """A message is larger than SQS takes."""


class PublishRefused(ValueError):
    """SQS refuses the message for good."""


class PublishDenied(OperationalError):
    """SQS denies access to one of the worker's own queues: it will be allowed again, and the task's message waits."""

    def __init__(self, queue: str, code: str) -> None:
        super().__init__(queue, code)
        self.queue = queue
        self.code = code

    def __str__(self) -> str:
        return f"SQS denies access to our own queue {self.queue}: {self.code}"


class ChannelClosed(ConnectionError):
    """The connection was lost."""


class SqsUnavailable(ConnectionError):
    """SQS throttles the request, or cannot answer it now."""


@contextmanager
def errors_translated() -> Iterator[None]:
    """Raise SqsUnavailable for an error that another try may change, and leave every other error as it is."""
    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.response["Error"]["Code"] in THROTTLED:
            raise SqsUnavailable(str(error)) from error
        raise
    except (HTTPClientError, BotocoreConnectionError, CredentialRetrievalError) as error:
        # A time-out or a lost connection; a refused one, or no such host; a metadata service that does not answer.
        raise SqsUnavailable(str(error)) from error
