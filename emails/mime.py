"""Turns an Email into an RFC 5322 message.

The standard library's EmailMessage would write the same bytes, but for a short message it takes seven times as long.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import sys
from datetime import UTC, datetime
from email import quoprimime
from email.header import Header
from email.utils import format_datetime
from io import BytesIO
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import quote

from emails.encoded_id import ID_HEADER, encoded_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from email.headerregistry import Address

    from emails.email import Attachment, Email

MAX_LINE = 998  # RFC 5322, section 2.1.1
MAX_QUOTED_NAME = 500  # so that an address of 254 characters fits in the same line
MAX_ENCODED_LINE = 76  # RFC 2045, sections 6.7 and 6.8
LINES_TO_JUDGE = 10  # of a text, to find its shorter encoding

MIME_VERSION = "MIME-Version: 1.0\r\n"


def message_id(email: Email) -> str:
    """Return the email's Message-ID. It is the same for every attempt, so that a receiver can drop a second copy."""
    return f"<{hashlib.sha256(email.id.encode()).hexdigest()[:32]}@{email.sender.domain}>"


def to_mime(email: Email) -> bytes:
    """Return the message to send. It does not name the Bcc recipients, who are only in the envelope."""
    # This header comes first because Amazon SES returns only 10 KB of headers in a feedback notification.
    headers = [_header(ID_HEADER, encoded_id(email.id))]
    for name, mailboxes in (("From", [email.sender]), ("To", email.to), ("Cc", email.cc), ("Reply-To", email.reply_to)):
        if mailboxes:
            headers.append(_mailboxes(name, mailboxes))
    texts = {
        "Date": format_datetime(datetime.now(UTC)),
        "Subject": email.subject,
        "Message-ID": message_id(email),
    }
    headers += [_header(name, text) for name, text in (texts | email.headers).items()]
    content = _content(email).versioned()
    # Only an address with non-ASCII characters before the @ is not ASCII. It can only be written in UTF-8 (RFC 6531).
    return b"".join([*(header.encode() for header in headers), *content.written()])


class _Part(NamedTuple):
    """A MIME entity (RFC 2045, section 2.4). The pieces of its body are only joined at the end, to save memory."""

    headers: str
    body: Sequence[bytes]
    is_multipart: bool = False

    def versioned(self) -> _Part:
        headers = MIME_VERSION + self.headers if self.is_multipart else self.headers + MIME_VERSION
        return self._replace(headers=headers)

    def written(self) -> list[bytes]:
        return [f"{self.headers}\r\n".encode(), *self.body]


def _content(email: Email) -> _Part:
    if not email.html:
        content, beside = _text("plain", email.text), email.attachments
    else:
        content = _text("html", email.html)
        # The HTML shows these by a `cid:` URL (RFC 2392).
        shown = [attachment for attachment in email.attachments if attachment.content_id]
        beside = [attachment for attachment in email.attachments if not attachment.content_id]
        if shown:
            # RFC 2387, section 3.1: the type of the first part
            kind = 'related; type="text/html"'
            content = _multipart(kind, [content, *(_file(attachment, "inline") for attachment in shown)])
        if email.text:
            content = _multipart("alternative", [_text("plain", email.text), content.versioned()])
    if beside:
        content = _multipart("mixed", [content, *(_file(attachment, "attachment") for attachment in beside)])
    return content


def _multipart(kind: str, parts: Iterable[_Part]) -> _Part:
    # Nobody can guess the boundary and write it in a part.
    boundary = f"{'=' * 15}{secrets.randbelow(sys.maxsize):019}=="
    delimiter = f"--{boundary}".encode()
    body: list[bytes] = []
    for part in parts:
        body += [delimiter, b"\r\n", *part.written(), b"\r\n"]
    body += [delimiter, b"--\r\n"]
    return _Part(f'Content-Type: multipart/{kind};\r\n boundary="{boundary}"\r\n', body, is_multipart=True)


def _text(subtype: str, text: str) -> _Part:
    encoding, body = _encoded(text)
    headers = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {encoding}\r\n'
    return _Part(headers, [body])


def _encoded(text: str) -> tuple[str, bytes]:
    """Return the text's Content-Transfer-Encoding and its lines in that encoding.

    Some servers on the way do not support 8BITMIME (RFC 6152), and SES wants lines below 1,000 bytes. Quoted-printable
    and base64 satisfy both.
    """
    lines = text.encode().splitlines()
    # A message must not contain U+0000 (RFC 5322, section 3.5; RFC 2045, section 2.7), and servers answer 554 if it
    # does. Once encoded, it is ordinary ASCII to every server, so a stray character does not cost the reader the whole
    # email.
    has_null = "\0" in text
    if text.isascii() and not has_null and max(map(len, lines)) <= MAX_ENCODED_LINE:
        return "7bit", _joined(lines)
    sample = _joined(lines[:LINES_TO_JUDGE])
    if not has_null and len(_quoted_printable(sample)) > len(binascii.b2a_base64(sample)):
        return "base64", _base64(_joined(lines))
    return "quoted-printable", _quoted_printable(_joined(lines)).replace("\n", "\r\n").encode()


def _joined(lines: list[bytes]) -> bytes:
    return b"\r\n".join(lines) + b"\r\n"


def _quoted_printable(lines: bytes) -> str:
    return quoprimime.body_encode(lines.decode("latin-1"), MAX_ENCODED_LINE)


def _base64(content: bytes) -> bytes:
    encoded = base64.b64encode(content)
    lines = BytesIO()  # a list of the lines would need twice the memory
    for start in range(0, len(encoded), MAX_ENCODED_LINE):
        lines.write(encoded[start : start + MAX_ENCODED_LINE])
        lines.write(b"\r\n")
    return lines.getvalue()


def _file(attachment: Attachment, disposition: Literal["inline", "attachment"]) -> _Part:
    if attachment.body is None:
        raise ValueError("the attachment has not been fetched")
    content_type = attachment.content_type
    if content_type.lower().startswith("message/"):
        # RFC 2046, section 5.2.1, does not allow base64 for a message, and no other encoding keeps every byte.
        content_type = "application/octet-stream"
    name = attachment.name
    # Mail readers disagree about some characters in a quoted string: some cut the name at a semicolon, for example.
    # RFC 2231, section 4, has a form for such names.
    is_quotable = _is_plain(name) and not set(name) & {'"', "\\", ";"}
    filename = f'filename="{name}"' if is_quotable else f"filename*=utf-8''{quote(name, '')}"
    headers = [
        "Content-Transfer-Encoding: base64\r\n",
        MIME_VERSION,
        f"Content-Type: {content_type}\r\n",
        f"Content-Disposition: {disposition}; {filename}\r\n",
    ]
    if disposition == "inline":
        headers.append(f"Content-ID: <{attachment.content_id}>\r\n")
    return _Part("".join(headers), [_base64(attachment.body)])


def _header(name: str, text: str) -> str:
    """Return the header's line, or its lines if it is long.

    Readers decode `=?…?=` in the text, so a text that has it is encoded. Long URLs and ids are not made encoded words,
    so that people can search for them.
    """
    room = MAX_LINE - len(f"{name}: ")
    if not _is_plain(text):
        written = _encoded_words(name, text)
    elif len(text) <= room:
        written = text
    elif all(0 < len(word) <= room for word in text.split(" ")):
        written = text.replace(" ", "\r\n ")
    else:
        written = _encoded_words(name, text)
    return f"{name}: {written}\r\n"


def _mailboxes(name: str, mailboxes: list[Address]) -> str:
    written = ",\r\n ".join(_mailbox(name, mailbox) for mailbox in mailboxes)
    return f"{name}: {written}\r\n"


def _is_plain(text: str) -> bool:
    """Whether readers see the text as it is written: they decode nothing in it and drop no space."""
    return text.isascii() and "=?" not in text and text == text.strip()


def _encoded_words(name: str, text: str) -> str:
    return Header(text, "utf-8", header_name=name).encode(linesep="\r\n")


def _mailbox(header: str, address: Address) -> str:
    name, addr_spec = address.display_name, address.addr_spec
    if not name:
        return addr_spec
    if not _is_plain(name) or len(name) > MAX_QUOTED_NAME:
        name = _encoded_words(header, name)
    elif not all(word.isalnum() for word in name.split(" ")):
        name = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
    return f"{name} <{addr_spec}>"
