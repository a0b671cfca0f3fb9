"""Amazon SES, API version 2. SES gets the whole message as we built it ("Raw")."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Self

from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from pydantic import Field

from emails.encoded_id import ID_TAG, encoded_id
from emails.events import RejectReason
from emails.mime import to_mime
from emails.providers.contract import (
    Answer,
    PermanentError,
    Receipt,
    RefusedRecipient,
    TemporaryError,
    UnknownResultError,
)
from settings import EnvironmentSettings
from settings.aws import CONNECT_TIMEOUT, client

if TYPE_CHECKING:
    from mypy_boto3_sesv2 import SESV2Client
    from mypy_boto3_sesv2.type_defs import DestinationTypeDef, MessageTagTypeDef, SendEmailRequestTypeDef

    from emails.email import Email
    from emails.providers.contract import SendError
    from settings import Settings

logger = logging.getLogger(__name__)

# Amazon SES Developer Guide, "Service quotas": a message's size with attachments, after base64, and its recipients.
MAX_MESSAGE_BYTES = 40_000_000
MAX_RECIPIENTS = 50
TAG = re.compile(r"[A-Za-z0-9_-]{1,256}")  # API reference, "MessageTag"
CODE = re.compile(r"[A-Za-z0-9]{1,64}")  # all of AWS's error codes look like this

SECOND, QUARTER_HOUR, HOUR = 1, 900, 3600
SERVER_ERROR = 500

# Errors that happen before the first byte of a request is sent.
_NOT_SENT = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, SSLError)


# The errors of SendEmail, from its API reference and botocore's model. If AWS's text says more than its error code, the
# key is a part of the text. These keys come first.
ANSWERS: dict[str, Answer] = {
    "Daily message quota exceeded": Answer("the account's 24-hour quota is used up", None, HOUR),
    "Maximum sending rate exceeded": Answer("the account's send rate is exceeded", None, SECOND),
    "not verified": Answer("an identity is not verified in SES", RejectReason.BLOCKED),
    "suppression list": Answer("a recipient is on SES's suppression list", RejectReason.BLOCKED),
    "TooManyRequestsException": Answer("SES throttled the request", None, SECOND),
    "ThrottlingException": Answer("SES throttled the request", None, SECOND),
    "Throttling": Answer("SES throttled the request", None, SECOND),
    "LimitExceededException": Answer("a quota of the account is used up", None, QUARTER_HOUR),
    "SendingPausedException": Answer("sending is paused for the account or the configuration set", None, QUARTER_HOUR),
    # The operator has to fix this one. It is not the email's fault, so the email is retried.
    "NotFoundException": Answer("SES has no such configuration set or contact list", None, QUARTER_HOUR),
    "AccountSuspendedException": Answer("AWS has suspended the account's sending", RejectReason.BLOCKED),
    "MailFromDomainNotVerifiedException": Answer("the MAIL FROM domain is not verified in SES", RejectReason.BLOCKED),
    "MessageRejected": Answer("SES rejected the message's content", RejectReason.OTHER),
    "BadRequestException": Answer("SES found the request invalid", RejectReason.INVALID),
    "ValidationException": Answer("SES found the request invalid", RejectReason.INVALID),
    "RequestEntityTooLargeException": Answer("SES found the message too large", RejectReason.OTHER),
}


class SesSettings(EnvironmentSettings):
    """What SES should apply to each email."""

    ses_configuration_set: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_-]{0,64}$",
        description="the configuration set that publishes events to the callbacks queue: letters, digits, - and _",
    )
    ses_contact_list: str = Field(
        default="",
        pattern=r"^([A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64})?)?$",
        description="an SES contact list, or list/topic, from which recipients can unsubscribe",
    )


class SesProvider:
    """Sends each email by SES once. Its client does not retry."""

    name = "ses"
    max_message_bytes = MAX_MESSAGE_BYTES

    def __init__(self, ses: SESV2Client, settings: Settings, own: SesSettings) -> None:
        self._ses = ses
        self._configuration_set = own.ses_configuration_set
        self._contact_list, _, self._topic = own.ses_contact_list.partition("/")
        self.longest_send = settings.provider_timeout

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        # One second is left for everything else: signing, and reading the answer.
        read_timeout = max(settings.provider_timeout - CONNECT_TIMEOUT - 1, 1)
        return cls(client("sesv2", settings, read_timeout=read_timeout, attempts=1), settings, SesSettings.read())

    def max_send_rate(self) -> float | None:
        """Return the account's quota. SES counts recipients, while EMAIL_SEND_RATE counts emails."""
        try:
            return self._ses.get_account()["SendQuota"]["MaxSendRate"]
        except (ClientError, BotocoreConnectionError, HTTPClientError, KeyError) as error:
            logger.warning("the send rate is not limited: SES did not return its quota (%s)", type(error).__name__)
            return None

    def send(self, email: Email) -> Receipt:
        request = self._request(email)
        try:
            answer = self._ses.send_email(**request)
        except ClientError as error:
            raise _to_error(error) from None
        except _NOT_SENT as error:
            raise TemporaryError(f"SES cannot be reached: {type(error).__name__}") from None
        except (BotocoreConnectionError, HTTPClientError) as error:
            raise UnknownResultError(f"SES did not answer: {type(error).__name__}") from None
        return Receipt(self.name, answer["MessageId"], "accepted by SES")

    def _request(self, email: Email) -> SendEmailRequestTypeDef:
        """Return the request to SES.

        Raises:
            PermanentError: SES would refuse the email. Nothing was sent.
        """
        _check_recipients(email)
        content = to_mime(email)
        if len(content) > MAX_MESSAGE_BYTES:
            raise PermanentError(f"the message has {len(content)} bytes; SES accepts at most {MAX_MESSAGE_BYTES}")
        request: SendEmailRequestTypeDef = {
            "Content": {"Raw": {"Data": content}},
            "Destination": _destination(email),
            "EmailTags": _tags(email),
        }
        if self._configuration_set:
            request["ConfigurationSetName"] = self._configuration_set
        if self._contact_list:
            request["ListManagementOptions"] = {"ContactListName": self._contact_list}
            if self._topic:
                request["ListManagementOptions"]["TopicName"] = self._topic
        return request


def _destination(email: Email) -> DestinationTypeDef:
    """Return each recipient once, in the first list that has it: SES counts an address each time that it is listed."""
    to = {mailbox.addr_spec for mailbox in email.to}
    cc = {mailbox.addr_spec for mailbox in email.cc} - to
    addresses = [mailbox.addr_spec for mailbox in email.recipients]
    return {
        "ToAddresses": [address for address in addresses if address in to],
        "CcAddresses": [address for address in addresses if address in cc],
        "BccAddresses": [address for address in addresses if address not in to | cc],
    }


def _check_recipients(email: Email) -> None:
    recipients = email.recipients
    if len(recipients) > MAX_RECIPIENTS:
        raise PermanentError(f"the email has {len(recipients)} recipients; SES accepts at most {MAX_RECIPIENTS}")
    # "Amazon SES does not support the SMTPUTF8 extension" (API reference, "Destination").
    mailboxes = [email.sender, *email.reply_to, *email.to, *email.cc, *recipients]
    if not all(mailbox.username.isascii() for mailbox in mailboxes):
        said = "not ASCII before the @, which SES does not accept"
        refused = tuple(
            RefusedRecipient(mailbox.addr_spec, RejectReason.INVALID, said)
            for mailbox in recipients
            if not mailbox.username.isascii()
        )
        raise PermanentError(f"an address is {said}", RejectReason.INVALID, refused)


def _tags(email: Email) -> list[MessageTagTypeDef]:
    for name, value in email.tags.items():
        if not TAG.fullmatch(name) or not TAG.fullmatch(value):
            raise PermanentError("a tag's name or value is not 1 to 256 letters, digits, _ or -, as SES requires")
    return [{"Name": name, "Value": value} for name, value in {**email.tags, ID_TAG: encoded_id(email.id)}.items()]


def _to_error(error: ClientError) -> SendError:
    """Return the error for SES's answer. AWS's text may quote addresses, so it is read but never repeated."""
    code, text = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
    if not CODE.fullmatch(code):
        code = "an unknown error"
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if status >= SERVER_ERROR:
        return UnknownResultError(f"SES answered {status} ({code})")
    answer = next((ANSWERS[part] for part in ANSWERS if part == code or (" " in part and part in text)), None)
    if answer is None:  # credentials, permissions or an unknown error: not accepted, but not the email's fault
        return TemporaryError(f"SES answered with {code}", QUARTER_HOUR)
    return answer.error(code)
