"""Email → RFC 5322 message."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from email.header import Header
from email.headerregistry import HeaderRegistry
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

from emails.encoded_id import ID_HEADER, encoded_id

if TYPE_CHECKING:
    from email.headerregistry import Address
    from email.message import MIMEPart
    from email.policy import Policy

    from emails.email import Attachment, Email


class _HeaderRegistry(HeaderRegistry):
    """Keeps what it makes of the few headers that parts have.

    The standard library makes a class for every look at a header: two thirds of what a short message would cost.
    """

    __getitem__ = lru_cache(HeaderRegistry.__getitem__)
    __call__ = lru_cache(HeaderRegistry.__call__)


# Not every hop speaks 8BITMIME (RFC 6152), and SES wants lines below 1,000 bytes: quoted-printable and base64 pass.
# The standard library writes quoted-printable in lines of 78, where RFC 2045, section 6.7, allows 76.
SEVEN_BIT = SMTP.clone(cte_type="7bit", max_line_length=76, header_factory=_HeaderRegistry())
# An address of non-ASCII letters before the @ cannot be written but in UTF-8 (RFC 6531).
SEVEN_BIT_UTF8 = SEVEN_BIT.clone(utf8=True)

MAX_LINE = 998  # RFC 5322, section 2.1.1
MAX_QUOTED_NAME = 500  # so that an address of 254 fits beside it


def message_id(email: Email) -> str:
    """The same for every attempt at the same email, so that a receiver can drop a second copy."""
    return f"<{hashlib.sha256(email.id.encode()).hexdigest()[:32]}@{email.sender.domain}>"


def to_mime(email: Email) -> EmailMessage:
    """The message to send. Recipients in blind copy are in the envelope alone, so not in here."""
    addresses = [email.sender, *email.to, *email.cc, *email.reply_to]
    message = EmailMessage(SEVEN_BIT if all(a.username.isascii() for a in addresses) else SEVEN_BIT_UTF8)
    # First, because Amazon SES cuts the headers that it sends back in feedback notifications at 10 KB.
    message[ID_HEADER] = _Header.of_text(ID_HEADER, encoded_id(email.id))
    for name, mailboxes in (("From", [email.sender]), ("To", email.to), ("Cc", email.cc), ("Reply-To", email.reply_to)):
        if mailboxes:
            message[name] = _Header.of_mailboxes(name, mailboxes)
    texts = {
        "Date": format_datetime(datetime.now(UTC)),
        "Subject": email.subject,
        "Message-ID": message_id(email),
    }
    for name, text in (texts | email.headers).items():
        message[name] = _Header.of_text(name, text)
    if email.text:
        message.set_content(email.text, cte=_encoding(email.text))
        if email.html:
            message.add_alternative(email.html, subtype="html", cte=_encoding(email.html))
    else:
        message.set_content(email.html, subtype="html", cte=_encoding(email.html))
    html = message.get_body(("html",))
    for attachment in email.attachments:
        if html is not None and attachment.content_id:  # what the HTML shows (RFC 2392: `cid:`) goes beside it
            html.add_related(attachment.body, maintype="application", subtype="octet-stream")
            html.set_param("type", "text/html")  # RFC 2387, section 3.1: the type of the first part
            _describe(html, attachment, "inline")
    for attachment in email.attachments:
        if html is None or not attachment.content_id:
            message.add_attachment(attachment.body, maintype="application", subtype="octet-stream")
            _describe(message, attachment, "attachment")
    return message


def _encoding(text: str) -> str | None:
    """The text's Content-Transfer-Encoding if the standard library, which only looks for ASCII, would be wrong.

    A message must not contain U+0000 (RFC 5322, section 3.5; RFC 2045, section 2.7), and servers answer 554 if it does.
    Encoded, it is ordinary ASCII to every server, so a stray character does not cost the reader the whole email.
    """
    return "quoted-printable" if "\0" in text else None


class _Header(str):
    """A header's text, and how it is written.

    The standard library would decode `=?…?=` in the text and write what comes out, line breaks included; where it folds
    it drops quotes that an address needs, and makes encoded words of long URLs and ids, which nobody then finds.
    """

    __slots__ = ("name", "written")

    name: str
    written: str

    def __new__(cls, name: str, text: str, written: str) -> Self:
        header = super().__new__(cls, text)
        header.name, header.written = name, written
        return header

    @classmethod
    def of_text(cls, name: str, text: str) -> Self:
        room = MAX_LINE - len(f"{name}: ")
        words = text.split(" ")
        if not _is_plain(text):
            written = _encoded_words(name, text)
        elif len(text) <= room:
            written = text
        elif all(0 < len(word) <= room for word in words):
            written = "\r\n ".join(words)
        else:
            written = _encoded_words(name, text)
        return cls(name, text, written)

    @classmethod
    def of_mailboxes(cls, name: str, mailboxes: list[Address]) -> Self:
        written = ",\r\n ".join(_mailbox(name, mailbox) for mailbox in mailboxes)
        return cls(name, ", ".join(map(str, mailboxes)), written)

    def fold(self, *, policy: Policy) -> str:
        """What EmailPolicy calls for a value that has a name."""
        return f"{self.name}: {self.written}{policy.linesep}"


def _is_plain(text: str) -> bool:
    """Whether a reader sees the text as it is written: nothing to decode, no space to lose."""
    return text.isascii() and "=?" not in text and text == text.strip()


def _encoded_words(name: str, text: str) -> str:
    return Header(text, "utf-8", header_name=name).encode(linesep="\r\n")


def _mailbox(header: str, address: Address) -> str:
    name = address.display_name
    if not name:
        return address.addr_spec
    if not _is_plain(name) or len(name) > MAX_QUOTED_NAME:
        name = _encoded_words(header, name)
    elif not all(word.isalnum() for word in name.split(" ")):
        name = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return f"{name} <{address.addr_spec}>"


def _describe(parent: MIMEPart, attachment: Attachment, disposition: Literal["inline", "attachment"]) -> None:
    """Say of the parent's last part what the attachment says."""
    content_type = attachment.content_type
    if content_type.lower().startswith("message/"):
        # RFC 2046, section 5.2.1, lets no base64 be around a message, and nothing else keeps every byte.
        content_type = "application/octet-stream"
    name = attachment.name
    # RFC 2231, section 4, for what a quoted string cannot carry alike to every reader: some cut it at a semicolon.
    is_quotable = _is_plain(name) and not set(name) & {'"', "\\", ";"}
    filename = f'filename="{name}"' if is_quotable else f"filename*=utf-8''{quote(name, '')}"
    headers = {"Content-Type": content_type, "Content-Disposition": f"{disposition}; {filename}"}
    if disposition == "inline":
        headers["Content-ID"] = f"<{attachment.content_id}>"
    part = list(parent.iter_parts())[-1]
    for header, text in headers.items():
        del part[header]
        part[header] = _Header(header, text, text)
