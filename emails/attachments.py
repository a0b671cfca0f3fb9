"""Fetches attachments from S3, and checks beforehand which of them may be fetched."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from emails.providers.contract import PermanentError, TemporaryError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectRequestTypeDef

    from emails.email import Attachment, Email

# The limit for all attachments of an email together. In base64 they have more than the 40 MB that SES accepts (its
# quotas), so this limit refuses nothing that SES would take.
MAX_BYTES = 30 * 1024 * 1024
CHUNK_BYTES = 64 * 1024

# S3's error codes that no later attempt can change, and what we say about each.
PERMANENT = {
    "NoSuchKey": "S3 has no such object",
    "NoSuchBucket": "S3 has no such bucket",
    "PreconditionFailed": "the object's ETag in S3 differs from e_tag",
    "InvalidObjectState": "the object in S3 is archived",
}
# This is retried, because somebody may fix the policy, and a new policy takes a moment to apply everywhere. S3 also
# answers this for a missing object if the caller may not list the bucket, and workers may not (API reference,
# "GetObject", Permissions). In that case a few attempts are wasted.
ACCESS_DENIED = "S3 answered AccessDenied: the worker may not read the object, or the object does not exist"
TOO_SLOW = "the claim has too little time left to fetch it"


def why_forbidden(email: Email, prefixes: tuple[str, ...]) -> str:
    """Return why the email's files may not be fetched, or "". Every `s3_uri` must begin with one of the prefixes."""
    for number, attachment in enumerate(email.attachments):
        if attachment.s3_uri and not attachment.s3_uri.startswith(prefixes):
            return f"{_name(number)}: does not begin with any of EMAIL_ATTACHMENT_PREFIXES"
    return ""


def fetch(s3: S3Client, email: Email, until: float) -> Email:
    """Return a copy of the email in which the attachments have their content from S3.

    No request begins after `until` (epoch seconds), and no more content is read then. If S3 has not answered at that
    moment, its answer is awaited for at most settings.model.S3_SECONDS.

    Raises:
        TemporaryError, PermanentError: nothing was sent. The text says which attachment failed, not where it is stored.
    """
    room = MAX_BYTES - sum(len(attachment.body or b"") for attachment in email.attachments)
    attachments = []
    for number, attachment in enumerate(email.attachments):
        if attachment.s3_uri is None:
            attachments.append(attachment)
            continue
        try:
            body = _get(s3, attachment.s3_uri, attachment, room, until)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in PERMANENT:
                raise PermanentError(f"{_name(number)}: {PERMANENT[code]}") from None
            reason = ACCESS_DENIED if code == "AccessDenied" else f"S3 answered {code}"
            raise TemporaryError(f"{_name(number)}: {reason}") from None
        except (BotoCoreError, HTTPError) as error:  # if TLS fails in a body, botocore raises urllib3's error
            raise TemporaryError(f"{_name(number)}: S3 did not answer ({type(error).__name__})") from None
        except _WrongObject as error:
            raise PermanentError(f"{_name(number)}: {error}") from None
        except TimeoutError:
            raise TemporaryError(f"{_name(number)}: {TOO_SLOW}") from None
        room -= len(body)
        attachments.append(attachment.model_copy(update={"body": body}))
    return email.model_copy(update={"attachments": attachments})


class _WrongObject(Exception):
    """The object in S3 differs from what the row says, or it is too large."""


def _get(s3: S3Client, uri: str, attachment: Attachment, room: int, until: float) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    request: GetObjectRequestTypeDef = {"Bucket": bucket, "Key": key}
    if attachment.e_tag:
        request["IfMatch"] = f'"{attachment.e_tag.strip(chr(34))}"'
    _check(until)
    answer = s3.get_object(**request)
    with closing(answer["Body"]) as body:
        size = answer["ContentLength"]
        if attachment.size is not None and size != attachment.size:
            raise _WrongObject(f"size is {attachment.size:g}, but the object in S3 has {size} bytes")
        if size > room:
            raise _WrongObject(f"the attachments together have more than {MAX_BYTES} bytes")
        chunks = []
        while chunk := body.read(CHUNK_BYTES):  # at the end botocore checks the length and S3's checksum
            _check(until)
            chunks.append(chunk)
        return b"".join(chunks)


def _check(until: float) -> None:
    if time.time() >= until:
        raise TimeoutError


def _name(number: int) -> str:
    return f"Attachments[{number}].s3_uri"
