"""Turns an Email into a message by the standard library's EmailMessage. emails/mime.py writes the same bytes."""

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
    """Caches what the standard library makes of the few headers that MIME parts have.

    The standard library makes a new class whenever a header is read. For a short message, that would be two thirds of
    the cost.
    """

    __getitem__ = lru_cache(HeaderRegistry.__getitem__)
    __call__ = lru_cache(HeaderRegistry.__call__)


# Some servers on the way do not support 8BITMIME (RFC 6152), and SES wants lines below 1,000 bytes. Quoted-printable
# and base64 satisfy both. The standard library writes quoted-printable lines of 78 characters by default, but RFC 2045,
# section 6.7, allows 76.
SEVEN_BIT = SMTP.clone(cte_type="7bit", max_line_length=76, header_factory=_HeaderRegistry())
# An address with non-ASCII characters before the @ can only be written in UTF-8 (RFC 6531).
SEVEN_BIT_UTF8 = SEVEN_BIT.clone(utf8=True)

MAX_LINE = 998  # RFC 5322, section 2.1.1
MAX_QUOTED_NAME = 500  # so that an address of 254 characters fits in the same line


def message_id(email: Email) -> str:
    """Return the email's Message-ID. It is the same for every attempt, so that a receiver can drop a second copy."""
    return f"<{hashlib.sha256(email.id.encode()).hexdigest()[:32]}@{email.sender.domain}>"


def to_mime(email: Email) -> EmailMessage:
    """Return the message to send. It does not name the Bcc recipients, who are only in the envelope."""
    addresses = [email.sender, *email.to, *email.cc, *email.reply_to]
    message = EmailMessage(SEVEN_BIT if all(a.username.isascii() for a in addresses) else SEVEN_BIT_UTF8)
    # This header comes first because Amazon SES returns only 10 KB of headers in a feedback notification.
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
        if html is not None and attachment.content_id:  # the HTML shows it by a `cid:` URL (RFC 2392)
            html.add_related(attachment.body, maintype="application", subtype="octet-stream")
            html.set_param("type", "text/html")  # RFC 2387, section 3.1: the type of the first part
            _describe(html, attachment, "inline")
    for attachment in email.attachments:
        if html is None or not attachment.content_id:
            message.add_attachment(attachment.body, maintype="application", subtype="octet-stream")
            _describe(message, attachment, "attachment")
    return message


def _encoding(text: str) -> str | None:
    """Return the text's Content-Transfer-Encoding, or None if the standard library chooses the right one.

    The standard library only looks for ASCII. But a message must not contain U+0000 (RFC 5322, section 3.5; RFC 2045,
    section 2.7), and servers answer 554 if it does. Once encoded, it is ordinary ASCII to every server, so a stray
    character does not cost the reader the whole email.
    """
    return "quoted-printable" if "\0" in text else None


class _Header(str):
    """A header's text, and how it is written in the message.

    The standard library would decode `=?…?=` in the text and write the result, including any line breaks. When it
    folds a line, it drops quotes that an address needs, and it turns long URLs and ids into encoded words, so that
    nobody can search for them.
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
        """Return the header as it is written. EmailPolicy calls this for a value that has a name."""
        return f"{self.name}: {self.written}{policy.linesep}"


def _is_plain(text: str) -> bool:
    """Whether readers see the text as it is written: they decode nothing in it and drop no space."""
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
    """Give the parent's last part the headers that describe the attachment."""
    content_type = attachment.content_type
    if content_type.lower().startswith("message/"):
        # RFC 2046, section 5.2.1, does not allow base64 for a message, and no other encoding keeps every byte.
        content_type = "application/octet-stream"
    name = attachment.name
    # Mail readers disagree about some characters in a quoted string: some cut the name at a semicolon, for example.
    # RFC 2231, section 4, has a form for such names.
    is_quotable = _is_plain(name) and not set(name) & {'"', "\\", ";"}
    filename = f'filename="{name}"' if is_quotable else f"filename*=utf-8''{quote(name, '')}"
    headers = {"Content-Type": content_type, "Content-Disposition": f"{disposition}; {filename}"}
    if disposition == "inline":
        headers["Content-ID"] = f"<{attachment.content_id}>"
    part = list(parent.iter_parts())[-1]
    for header, text in headers.items():
        del part[header]
        part[header] = _Header(header, text, text)
