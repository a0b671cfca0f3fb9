"""An email, mapped from its row in DynamoDB."""

from __future__ import annotations

import base64
import logging
import re
from datetime import UTC, datetime
from decimal import Decimal
from email.headerregistry import Address
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import unquote

from boto3.dynamodb.types import Binary
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticOmit

from emails.headers import check_header_name, check_headers, shortened
from emails.mailbox import CONTROL_CHARACTERS, parse_mailbox
from emails.status import EmailStatus, is_missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails


logger = logging.getLogger(__name__)

MAX_FILE_NAME_BYTES = 255  # the limit of file systems; even percent-encoded (RFC 2231), the name fits a line
MAX_S3_KEY_BYTES = 1024  # S3 user guide, "Naming Amazon S3 objects"
MAX_ATTEMPTS = 1e9
MAX_CONTENT_ID = 200  # characters; a line has room for five times as many
PRODUCERS_NAMES = frozenset({"Headers", "Tags"})  # maps in which the producer chooses the keys

REDIRECT_HEADER = "X-Redirected-From"

# A content id is a msg-id (RFC 2045, section 7). This is its usual form (RFC 5322, sections 3.2.3 and 3.6.4).
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_MSG_ID = re.compile(rf"{_ATEXT}(\.{_ATEXT})*@{_ATEXT}(\.{_ATEXT})*")


class InvalidRow(Exception):
    """A row cannot be mapped. The text names each wrong attribute and says what is wrong, without its value."""


def _counts(value: object) -> dict[str, int]:
    """Return the counts of an attribute that is ours to write. What somebody else wrote there counts as nothing."""
    counts = value.items() if isinstance(value, dict) else ()
    return {
        str(name): int(count) for name, count in counts if isinstance(count, int | Decimal) and 0 < count < MAX_ATTEMPTS
    }


def _mailbox(value: object) -> Address:
    if not isinstance(value, str):
        raise ValueError("is not a string")  # noqa: TRY004 (pydantic reports a ValueError, but lets a TypeError through)
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
        raise ValueError("is not an ISO 8601 time like 2026-01-31T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _number(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


def _one_line(value: object) -> object:
    if isinstance(value, str) and CONTROL_CHARACTERS.search(value):
        raise ValueError("has a line break or another control character")
    return value


def _file_name(value: object) -> object:
    if isinstance(value, str) and len(value.encode(errors="surrogatepass")) > MAX_FILE_NAME_BYTES:
        raise ValueError(f"is longer than {MAX_FILE_NAME_BYTES} bytes")
    return _one_line(value)


def _content_id(value: object) -> object:
    if isinstance(value, str) and (len(value) > MAX_CONTENT_ID or not _MSG_ID.fullmatch(value)):
        raise ValueError(f"is not an id like logo@example.com, of at most {MAX_CONTENT_ID} characters (RFC 2392)")
    return value


def _s3_uri(value: object) -> object:
    if isinstance(value, str):
        match = None if CONTROL_CHARACTERS.search(value) else _S3_URI.fullmatch(value)
        if not match or len(match["key"].encode()) > MAX_S3_KEY_BYTES:
            raise ValueError("is not a URI like s3://bucket/folder/file.pdf")
        # S3 has no folders, but some HTTP clients and servers on the way resolve these.
        if {".", ".."} & set(unquote(match["key"]).split("/")):
            raise ValueError("has a folder . or .., which may lead outside the allowed prefix")
    return value


def _base64(value: object) -> object:
    if isinstance(value, Binary):  # a B attribute is decoded already
        return bytes(value.value)  # type: ignore[attr-defined]  # the stubs lack the attribute
    try:
        # White space is allowed because the shell's `base64` writes line breaks.
        return base64.b64decode("".join(value.split()) if isinstance(value, str) else "-", validate=True)
    except ValueError:
        raise ValueError("is not base64") from None


def _text(value: object) -> object:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("has a lone surrogate, which no charset can encode") from None
    return value


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not is_missing(value)}


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
# RFC 9110, section 8.8.3, with or without its quotes: S3's answers and events have both forms.
ETag = Annotated[str, Field(pattern=r'^("[!#-~]+"|[!#-~]+)$', max_length=200)]
ContentId = Annotated[str, BeforeValidator(_content_id)]
ContentType = Annotated[Line, Field(pattern=rf"^{_RESTRICTED_NAME}/{_RESTRICTED_NAME}( *;[ -~]*)?$", max_length=900)]


class _Attributes(BaseModel):
    """A DynamoDB map. NULL, an empty list and an empty string count as missing, and unknown attributes are ignored."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="ignore", frozen=True, strict=True, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_missing(cls, values: Any) -> Any:
        return _present(values) if isinstance(values, dict) else values


class Attachment(_Attributes):
    """A file that goes with an email. If it is in S3, it has no body until emails.attachments has fetched it."""

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
            raise ValueError("has both body and s3_uri")
        if "s3_uri" not in present:
            if values.get("body") is None:
                raise ValueError("has neither body nor s3_uri")
            present["body"] = values["body"]
        return present

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.content_type.lower().startswith("multipart/"):
            raise ValueError("content_type is multipart, which an attachment cannot be")
        if self.size is not None and self.body is not None and self.size != len(self.body):
            raise ValueError(f"size is {self.size:g}, but body has {len(self.body)} bytes")
        return self


class Email(_Attributes):
    """A mapped row. Its repr shows only the id and the status."""

    id: Line = Field(alias="EmailId")
    status: EmailStatus = Field(alias="EmailStatus", strict=False)
    subject: Line = Field(alias="Subject", repr=False)
    sender: Mailbox = Field(alias="Sender", repr=False)
    cc: Mailboxes = Field(default=[], alias="RecipientsCc", repr=False)
    bcc: Mailboxes = Field(default=[], alias="RecipientsBcc", repr=False)
    to: Mailboxes = Field(default=[], alias="RecipientsTo", repr=False, validate_default=True)
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
    attempts: Number = Field(
        default=0, alias="Attempts", repr=False, lt=MAX_ATTEMPTS
    )  # DynamoDB cannot add 1 to a huge number
    providers_tried: Annotated[dict[str, int], BeforeValidator(_counts)] = Field(
        default={}, alias="ProvidersTried", repr=False
    )
    next_attempt_at: Number = Field(default=0, alias="NextAttemptAt", repr=False)
    claim_expires_at: Number = Field(default=0, alias="ClaimExpiresAt", repr=False)

    _redirected_to: Address | None = PrivateAttr(default=None)  # private, so that no row can set it

    # `info.data` has the valid fields above. The invalid ones report their own errors.
    @field_validator("to")
    @classmethod
    def _names_a_recipient(cls, to: list[Address], info: ValidationInfo) -> list[Address]:
        if not to and info.data.get("cc") == info.data.get("bcc") == []:
            raise ValueError("is missing, as are RecipientsCc and RecipientsBcc")
        return to

    @field_validator("text")
    @classmethod
    def _has_a_body(cls, text: str, info: ValidationInfo) -> str:
        if not text and info.data.get("html") == "":
            raise ValueError("is missing, as is BodyHtml")
        return text

    @field_validator("attachments")
    @classmethod
    def _have_content_ids_of_their_own(cls, attachments: list[Attachment]) -> list[Attachment]:
        ids = [attachment.content_id for attachment in attachments if attachment.content_id]
        if len(set(ids)) < len(ids):
            raise ValueError("two of them have the same content_id, so a cid: URL would name both")
        return attachments

    @property
    def recipients(self) -> list[Address]:
        """The envelope's recipients: everybody who gets the email, each address once."""
        if self._redirected_to:
            return [self._redirected_to]
        # parse_mailbox has lower-cased the domains. Only the recipient's server knows which local parts are the same.
        unique: dict[str, Address] = {}
        for mailbox in (*self.to, *self.cc, *self.bcc):
            unique.setdefault(mailbox.addr_spec, mailbox)
        return list(unique.values())

    def redirected(self, address: str) -> Email:
        """Return the email with this address as its only recipient. A header names the recipients that it replaces.

        The headers To and Cc stay, so that the email looks as it would to its recipients.
        """
        replaced = ", ".join(mailbox.addr_spec for mailbox in self.recipients)
        copy = self.model_copy(update={"headers": {**self.headers, REDIRECT_HEADER: replaced}})
        copy._redirected_to = Address(addr_spec=address)  # noqa: SLF001 (a copy of this very class)
        return copy

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Email:
        """Map a row, as boto3's TypeDeserializer returns it.

        Raises:
            InvalidRow: the row cannot be mapped.
        """
        try:
            return cls.model_validate(dict(row))
        except ValidationError as error:
            raise InvalidRow("; ".join(_explanation(problem) for problem in error.errors())) from None


def _explanation(problem: ErrorDetails) -> str:
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    if problem["type"] == "missing":
        text = "is missing"
    attribute, *path = problem["loc"] or ("",)
    keys = [part for part in path if part != "[key]"]  # pydantic adds this if the key itself is wrong
    if field := Email.model_fields.get(str(attribute)):  # for an invalid default, pydantic names the field
        attribute = field.alias or attribute
    if attribute in PRODUCERS_NAMES:
        keys = [shortened(str(key)) for key in keys]
    where = str(attribute) + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in keys)
    where = re.sub(CONTROL_CHARACTERS, "?", where)
    return f"{where}: {text}" if where else text
