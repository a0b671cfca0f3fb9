"""An email as its DynamoDB row has it, and the statuses it passes through."""

from __future__ import annotations

import base64
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.headerregistry import Address
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import unquote

from boto3.dynamodb.types import Binary
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticOmit

from emails.headers import check_header_name, check_headers, shortened
from emails.mailbox import CONTROL_CHARACTERS, parse_mailbox

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails


logger = logging.getLogger(__name__)

MAX_FILE_NAME_BYTES = 255  # file systems take no longer one; percent-encoded (RFC 2231) it still fits a line
MAX_S3_KEY_BYTES = 1024  # S3 user guide, "Naming Amazon S3 objects"
MAX_CONTENT_ID = 200  # characters; a line has room for five times as many
PRODUCERS_NAMES = frozenset({"Headers", "Tags"})  # maps whose keys the producer chooses

# RFC 2045, section 7, makes a content id a msg-id, whose usual form this is (RFC 5322, sections 3.2.3 and 3.6.4).
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_MSG_ID = re.compile(rf"{_ATEXT}(\.{_ATEXT})*@{_ATEXT}(\.{_ATEXT})*")


class EmailStatus(StrEnum):
    """The attribute `EmailStatus`. Any other value there belongs to the producer."""

    PENDING = "Pending"
    SENDING = "Sending"
    SENT = "Sent"
    FAILED = "Failed"
    UNKNOWN = "Unknown"
    DELIVERED = "Delivered"
    BOUNCED = "Bounced"
    COMPLAINED = "Complained"


@dataclass(frozen=True)
class Transition:
    """One arrow between statuses, from which the store makes one conditional write.

    `by_holder` says that only the holder of the claim may go this way; `after_lease` that it waits for the lease's end.
    """

    sources: frozenset[EmailStatus | None]  # None: the attribute is missing, NULL or empty
    target: EmailStatus
    by_holder: bool = False
    after_lease: bool = False


def _arrow(
    *sources: EmailStatus | None, to: EmailStatus, by_holder: bool = False, after_lease: bool = False
) -> Transition:
    return Transition(frozenset(sources), to, by_holder, after_lease)


CLAIM = _arrow(EmailStatus.PENDING, to=EmailStatus.SENDING)
# A worker whose claim got no answer knows that it has sent nothing under it, even if somebody else has seen the lease
# end and has called the email Unknown.
TAKE_OVER = _arrow(EmailStatus.SENDING, EmailStatus.UNKNOWN, to=EmailStatus.SENDING, by_holder=True)
DISCARD = _arrow(EmailStatus.PENDING, None, to=EmailStatus.FAILED)
# A holder whose lease ran out while the provider answered is late, not wrong: Unknown becomes Sent. Where an operator
# has said so before, it adds its receipt.
RECORD = _arrow(EmailStatus.SENDING, EmailStatus.UNKNOWN, EmailStatus.SENT, to=EmailStatus.SENT, by_holder=True)
GIVE_BACK = _arrow(EmailStatus.SENDING, to=EmailStatus.PENDING, by_holder=True)
FAIL = _arrow(EmailStatus.SENDING, to=EmailStatus.FAILED, by_holder=True)
LOSE_TRACK = _arrow(EmailStatus.SENDING, to=EmailStatus.UNKNOWN, by_holder=True)
ABANDON = _arrow(EmailStatus.SENDING, to=EmailStatus.UNKNOWN, after_lease=True)

# An operator's, who has found out what happened.
RESOLVE_SENT = _arrow(EmailStatus.UNKNOWN, EmailStatus.FAILED, to=EmailStatus.SENT)
RESEND = _arrow(EmailStatus.UNKNOWN, EmailStatus.FAILED, to=EmailStatus.PENDING)

# A provider's, by its callbacks: they come in any order and any number of times, and the row shows the worst that came.
RANKED = (EmailStatus.SENT, EmailStatus.DELIVERED, EmailStatus.BOUNCED, EmailStatus.COMPLAINED)
_BEFORE = (EmailStatus.PENDING, EmailStatus.SENDING, EmailStatus.FAILED, EmailStatus.UNKNOWN)
TRACK = {status: _arrow(*_BEFORE, *RANKED[:rank], to=status) for rank, status in enumerate(RANKED)}
# A holder whose record finds that a callback was faster adds its receipt, and leaves the status.
ADD_RECEIPT = {status: _arrow(status, to=status, by_holder=True) for status in RANKED[1:]}

TRANSITIONS = (
    *(CLAIM, TAKE_OVER, DISCARD, RECORD, GIVE_BACK, FAIL, LOSE_TRACK, ABANDON, RESOLVE_SENT, RESEND),
    *TRACK.values(),
    *ADD_RECEIPT.values(),
)


class InvalidRow(Exception):
    """A row cannot be mapped. The text names each attribute and what is wrong with it, without its value."""


def _mailbox(value: object) -> Address:
    if not isinstance(value, str):
        msg = "is no string"
        raise ValueError(msg)  # noqa: TRY004 (pydantic reports a ValueError, and lets a TypeError through)
    return parse_mailbox(value)


def _listed_mailbox(value: object) -> Address:
    if value == "":
        raise PydanticOmit
    return _mailbox(value)


def _listed(value: object, info: ValidationInfo) -> object:
    if isinstance(value, (list, set)) and "" in value:
        attribute = Email.model_fields[info.field_name or ""].alias
        logger.warning("%s has an empty string, which is skipped", attribute)
    return sorted(value, key=repr) if isinstance(value, set) else value


def _moment(value: object) -> datetime:
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        msg = "is no ISO 8601 time like 2026-01-31T12:00:00Z"
        raise ValueError(msg) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def _one_line(value: object) -> object:
    if isinstance(value, str) and CONTROL_CHARACTERS.search(value):
        msg = "has a line break or another control character"
        raise ValueError(msg)
    return value


def _file_name(value: object) -> object:
    if isinstance(value, str) and len(value.encode(errors="surrogatepass")) > MAX_FILE_NAME_BYTES:
        msg = f"is longer than {MAX_FILE_NAME_BYTES} bytes"
        raise ValueError(msg)
    return _one_line(value)


def _content_id(value: object) -> object:
    if isinstance(value, str) and (len(value) > MAX_CONTENT_ID or not _MSG_ID.fullmatch(value)):
        msg = f"is no id like logo@example.com, of at most {MAX_CONTENT_ID} characters (RFC 2392)"
        raise ValueError(msg)
    return value


def _s3_uri(value: object) -> object:
    if isinstance(value, str):
        match = None if CONTROL_CHARACTERS.search(value) else _S3_URI.fullmatch(value)
        if not match or len(match["key"].encode()) > MAX_S3_KEY_BYTES:
            msg = "is no URI like s3://bucket/folder/file.pdf"
            raise ValueError(msg)
        # S3 knows no folders, but not every HTTP client and server between leaves these as they are.
        if {".", ".."} & set(unquote(match["key"]).split("/")):
            msg = "has a folder . or .., which may lead out of another"
            raise ValueError(msg)
    return value


def _base64(value: object) -> object:
    if isinstance(value, Binary):  # a B attribute: DynamoDB has decoded it
        return bytes(value.value)  # type: ignore[attr-defined]  # its stubs leave the attribute out
    try:
        # The line breaks are what `base64` writes in a shell.
        return base64.b64decode("".join(value.split()) if isinstance(value, str) else "-", validate=True)
    except ValueError:
        msg = "is not base64"
        raise ValueError(msg) from None


def _text(value: object) -> object:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            msg = "has a lone surrogate, which no charset can carry"
            raise ValueError(msg) from None
    return value


def _is_missing(value: object) -> bool:
    return value is None or value == Binary(b"") or (isinstance(value, (str, list, set, dict)) and not value)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not _is_missing(value)}


_S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/(?P<key>.+)")
_RESTRICTED_NAME = "[A-Za-z0-9!#$&^_.+-]+"  # RFC 6838, section 4.2

Mailbox = Annotated[Address, BeforeValidator(_mailbox)]
ListedMailbox = Annotated[Address, BeforeValidator(_listed_mailbox)]
Mailboxes = Annotated[list[ListedMailbox], BeforeValidator(_listed)]
Moment = Annotated[datetime, BeforeValidator(_moment)]
Number = Annotated[float, BeforeValidator(_number)]
Line = Annotated[str, BeforeValidator(_one_line)]
Text = Annotated[str, BeforeValidator(_text)]
FileName = Annotated[str, BeforeValidator(_file_name)]
HeaderName = Annotated[
    str,
    Field(pattern=r"^[!-9;-~]+$", max_length=200),  # RFC 5322, section 3.6.8: ftext
    AfterValidator(check_header_name),
]
S3Uri = Annotated[str, BeforeValidator(_s3_uri)]
# RFC 9110, section 8.8.3, with its quotes or without: both are seen in S3's answers and events.
ETag = Annotated[str, Field(pattern=r'^("[!#-~]+"|[!#-~]+)$', max_length=200)]
ContentId = Annotated[str, BeforeValidator(_content_id)]
ContentType = Annotated[Line, Field(pattern=rf"^{_RESTRICTED_NAME}/{_RESTRICTED_NAME}( *;[ -~]*)?$", max_length=900)]


class _Attributes(BaseModel):
    """A DynamoDB map: a missing attribute, NULL, an empty list and an empty string are the same; unknown ones pass."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="ignore", frozen=True, strict=True, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_missing(cls, values: Any) -> Any:
        return _present(values) if isinstance(values, dict) else values


class Attachment(_Attributes):
    """A file that goes with an email. One that lies in S3 has no body before emails.attachments has fetched it."""

    name: FileName
    content_type: ContentType
    content_id: ContentId | None = None
    body: Annotated[bytes | None, BeforeValidator(_base64)] = Field(default=None, repr=False)
    s3_uri: S3Uri | None = Field(default=None, repr=False)
    size: Number | None = None
    e_tag: ETag | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_missing(cls, values: Any) -> Any:
        """Keep an empty body, which is a file of 0 bytes, unless s3_uri says where the content is."""
        if not isinstance(values, dict):
            return values
        present = _present(values)
        if "s3_uri" in present and "body" in present:
            msg = "has both body and s3_uri"
            raise ValueError(msg)
        if "s3_uri" not in present:
            if values.get("body") is None:
                msg = "has neither body nor s3_uri"
                raise ValueError(msg)
            present["body"] = values["body"]
        return present

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.content_type.lower().startswith("multipart/"):
            msg = "content_type is multipart, which no file is"
            raise ValueError(msg)
        if self.size is not None and self.body is not None and self.size != len(self.body):
            msg = f"size is {self.size:g}, but body has {len(self.body)} bytes"
            raise ValueError(msg)
        return self


class Email(_Attributes):
    """A row, mapped. Its repr has the id and the status alone."""

    id: Line = Field(alias="EmailId")
    status: EmailStatus = Field(alias="EmailStatus", strict=False)
    subject: Line = Field(alias="Subject", repr=False)
    sender: Mailbox = Field(alias="Sender", repr=False)
    to: Mailboxes = Field(default=[], alias="RecipientsTo", repr=False)
    cc: Mailboxes = Field(default=[], alias="RecipientsCc", repr=False)
    bcc: Mailboxes = Field(default=[], alias="RecipientsBcc", repr=False, validate_default=True)
    reply_to: Mailboxes = Field(default=[], alias="ReplyTo", repr=False)
    html: Text = Field(default="", alias="BodyHtml", repr=False)
    text: Text = Field(default="", alias="BodyText", repr=False, validate_default=True)
    attachments: list[Attachment] = Field(default=[], alias="Attachments", repr=False)
    headers: Annotated[dict[HeaderName, Line], AfterValidator(check_headers)] = Field(
        default={}, alias="Headers", repr=False
    )
    tags: dict[Line, Line] = Field(default={}, alias="Tags", repr=False)
    send_after: Moment | None = Field(default=None, alias="SendAfter", repr=False)
    expires_at: Moment | None = Field(default=None, alias="ExpiresAt", repr=False)
    send_via: str | None = Field(default=None, alias="SendVia", repr=False)
    attempts: Number = Field(default=0, alias="Attempts", repr=False, lt=1e9)  # or DynamoDB may be unable to add one
    next_attempt_at: Number = Field(default=0, alias="NextAttemptAt", repr=False)
    claim_expires_at: Number = Field(default=0, alias="ClaimExpiresAt", repr=False)

    # `info.data` has the fields above that are valid: what is wrong with the others is said there.
    @field_validator("bcc")
    @classmethod
    def _names_a_recipient(cls, bcc: list[Address], info: ValidationInfo) -> list[Address]:
        if not bcc and info.data.get("to") == info.data.get("cc") == []:
            msg = "is missing, as are RecipientsTo and RecipientsCc"
            raise ValueError(msg)
        return bcc

    @field_validator("text")
    @classmethod
    def _has_a_body(cls, text: str, info: ValidationInfo) -> str:
        if not text and info.data.get("html") == "":
            msg = "is missing, as is BodyHtml"
            raise ValueError(msg)
        return text

    @field_validator("attachments")
    @classmethod
    def _have_content_ids_of_their_own(cls, attachments: list[Attachment]) -> list[Attachment]:
        ids = [attachment.content_id for attachment in attachments if attachment.content_id]
        if len(set(ids)) < len(ids):
            msg = "content_id is the same in two of them: a cid: URL would name both"
            raise ValueError(msg)
        return attachments

    @property
    def recipients(self) -> list[Address]:
        """The envelope's recipients: everybody who gets the email, each once."""
        # parse_mailbox has lower-cased the domains. Before the @ only the recipient's server knows what is the same.
        unique: dict[str, Address] = {}
        for mailbox in (*self.to, *self.cc, *self.bcc):
            unique.setdefault(mailbox.addr_spec, mailbox)
        return list(unique.values())

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Email:
        """Map a row, as boto3's TypeDeserializer gives it.

        Raises:
            InvalidRow: it cannot be mapped.
        """
        try:
            return cls.model_validate(dict(row))
        except ValidationError as error:
            raise InvalidRow("; ".join(_explanation(problem) for problem in error.errors())) from None


def status_of(row: Mapping[str, Any]) -> EmailStatus | str | None:
    """The row's status: ours, the producer's own as text, or None where it is missing."""
    value = row.get("EmailStatus")
    if _is_missing(value):
        return None
    try:
        return EmailStatus(value)  # type: ignore[arg-type]  # any value may stand in a row
    except ValueError:
        return value if isinstance(value, str) else repr(value)


def _explanation(problem: ErrorDetails) -> str:
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    if problem["type"] == "missing":
        text = "is missing"
    attribute, *path = problem["loc"] or ("",)
    keys = [part for part in path if part != "[key]"]  # pydantic's mark for what is wrong with a key itself
    if field := Email.model_fields.get(str(attribute)):  # a default was validated: pydantic names the field
        attribute = field.alias or attribute
    if attribute in PRODUCERS_NAMES:
        keys = [shortened(str(key)) for key in keys]
    where = str(attribute) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys)
    where = re.sub(CONTROL_CHARACTERS, "?", where)
    return f"{where}: {text}" if where else text
