"""What a reader gets, checked with Python's parser and with a Rust one; and that no row can add a header."""

from __future__ import annotations

import base64
import json
import re
import tracemalloc
from email import message_from_bytes
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from email.policy import compat32, default
from email.utils import getaddresses, parsedate_to_datetime
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis
import pytest
from boto3.dynamodb.types import Binary
from fast_mail_parser import parse_email, parse_email_tree
from hypothesis import given
from hypothesis import strategies as st

from emails.callbacks import parse_callback
from emails.email import Email
from emails.encoded_id import encoded_id
from emails.mime import message_id, to_mime
from tests.emails import mime_of_the_standard_library
from tests.emails.callbacks.notifications import feedback

if TYPE_CHECKING:
    from email.headerregistry import Address
    from email.message import EmailMessage, MIMEPart

    from fast_mail_parser import PyMimePart

INJECTION = "=?utf-8?q?a=0D=0ABcc:_eve@example.com=0D=0A=0D=0Abody?="  # decoding it yields two more header lines

PDF = {"name": "a.pdf", "content_type": "application/pdf", "body": "aGVsbG8="}


def read(content: bytes) -> EmailMessage:
    return message_from_bytes(content, policy=default)


def read_addresses(content: bytes, header: str) -> list[tuple[str, str]]:
    """Return names and addresses. On Python 3.11, email.policy.default puts spaces between a name's encoded words."""
    raw = dict(message_from_bytes(content, policy=compat32).raw_items()).get(header, "")
    value = raw.encode("ascii", "surrogateescape").decode()  # it is UTF-8, as in RFC 6532
    return [(str(make_header(decode_header(name))), address) for name, address in getaddresses([value])]


def written(mailboxes: list[Address]) -> list[tuple[str, str]]:
    return [(mailbox.display_name, mailbox.addr_spec) for mailbox in mailboxes]


def lines(text: str) -> list[str]:
    """Return the lines of a text. In a message every line ends in CRLF, including the last one."""
    return re.split(r"\r\n|\r|\n", re.sub(r"(\r\n|\r|\n)\Z", "", text))


def check_the_rules_of_the_wire(content: bytes) -> None:
    """Check everything that a server may refuse: the message's octets and lines, and those that each part declares."""
    assert b"\0" not in content, "RFC 5322, section 3.5; RFC 2045, sections 2.7 and 2.8"
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", content), "every line ends in CRLF"
    assert max(map(len, content.split(b"\r\n"))) <= 998, "RFC 5322, section 2.1.1"
    for part in message_from_bytes(content, policy=compat32).walk():
        encoding = part.get("Content-Transfer-Encoding", "7bit")
        allowed = {"7bit"} if part.is_multipart() else {"7bit", "quoted-printable", "base64"}  # RFC 2045, section 6.4
        assert encoding in allowed
        payload = "" if part.is_multipart() else part.get_payload()
        assert isinstance(payload, str)
        assert payload.isascii(), "RFC 2045, section 2.7"
        if encoding != "7bit":
            assert max(map(len, payload.split("\r\n"))) <= 76, "RFC 2045, sections 6.7 and 6.8"


def check(email: Email) -> bytes:
    """Render the email, and check that reading it back yields what was written."""
    content = to_mime(email)
    check_the_rules_of_the_wire(content)
    message = read(content)
    assert not message.defects
    assert message["Subject"] == email.subject
    assert message["X-Email-Id"] == encoded_id(email.id)
    assert message["Message-ID"] == message_id(email)
    assert read_addresses(content, "From") == written([email.sender])
    assert read_addresses(content, "To") == written(email.to)
    assert read_addresses(content, "Cc") == written(email.cc)
    assert read_addresses(content, "Reply-To") == written(email.reply_to)
    ours = {"Date", "Subject", "Message-ID", "X-Email-Id", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"}
    addresses = {"From": [email.sender], "To": email.to, "Cc": email.cc, "Reply-To": email.reply_to}
    wanted = ours | {name for name, mailboxes in addresses.items() if mailboxes} | email.headers.keys()
    assert len(message) == len(set(message)), "each header once"
    assert wanted - set(message) <= {"Content-Transfer-Encoding"}, "which a multipart message need not have"
    assert set(message) <= wanted, "no header that the row does not have, Bcc least of all"
    for name, value in email.headers.items():
        assert message[name] == value
    for kind, expected in (("plain", email.text), ("html", email.html)):
        body = message.get_body(preferencelist=(kind,))
        assert (body is not None) == bool(expected)
        if body is not None:
            assert lines(body.get_content()) == lines(expected)
    assert shape(message) == expected_shape(email)
    check_by_another_parser(email, content)
    return content


class Part(NamedTuple):
    """A part that is not a body, as either parser reads it."""

    content_type: str
    disposition: str | None
    filename: str
    content_id: str | None
    content: bytes


Shape = Part | str | tuple[str, list["Shape"]]


def expected_shape(email: Email) -> Shape:
    """Return a mixed of an alternative of a related multipart, each of them only if it has more than one part."""
    inline: list[Shape] = []
    files: list[Shape] = []
    for attachment in email.attachments:
        is_inline = bool(email.html and attachment.content_id)
        content_type = attachment.content_type.partition(";")[0].strip().lower()
        (inline if is_inline else files).append(
            Part(
                "application/octet-stream" if content_type.startswith("message/") else content_type,
                "inline" if is_inline else "attachment",
                attachment.name,
                attachment.content_id if is_inline else None,
                attachment.body or b"",
            )
        )
    shown: list[Shape] = [multipart("related", ["text/html", *inline])] if email.html else []
    texts: list[Shape] = ["text/plain"] if email.text else []
    return multipart("mixed", [multipart("alternative", [*texts, *shown]), *files])


def multipart(subtype: str, parts: list[Shape]) -> Shape:
    return (f"multipart/{subtype}", parts) if len(parts) > 1 else parts[0]


def shape(part: MIMEPart) -> Shape:
    """Return the parts that Python's parser has read."""
    if part.is_multipart():
        return part.get_content_type(), [shape(each) for each in part.iter_parts()]
    if part.get_content_disposition() is None:
        return part.get_content_type()
    content_id = part["Content-ID"]
    return Part(
        part.get_content_type(),
        part.get_content_disposition(),
        part["Content-Disposition"].params["filename"],
        content_id and content_id.removeprefix("<").removesuffix(">"),
        part.get_payload(decode=True),
    )


def shape_by_another_parser(part: PyMimePart) -> Shape:
    if part.content is None:
        return part.content_type, [shape_by_another_parser(each) for each in part.children]
    if part.disposition is None:
        return part.content_type
    return Part(part.content_type, part.disposition, part.filename, part.content_id, part.content)


def check_by_another_parser(email: Email, content: bytes) -> None:
    """Check the same with Rust's mailparse, which shares no code with what wrote the message."""
    mail = parse_email(content)
    assert mail.date_parsed
    assert mail.headers["Message-ID"] == [message_id(email)]
    assert mail.headers["X-Email-Id"] == [encoded_id(email.id)]
    assert mail.subject == email.subject
    assert shape_by_another_parser(parse_email_tree(content)) == expected_shape(email)
    for name, value in email.headers.items():
        assert mail.headers[name] == [value]
    for texts, expected in ((mail.text_plain, email.text), (mail.text_html, email.html)):
        # It treats an inline text file as another body.
        assert [lines(text) for text in texts[: bool(expected)]] == ([lines(expected)] if expected else [])
    sent = [[email.sender], email.to, email.cc, email.reply_to]
    if any(mailbox.addr_spec.startswith('"') for mailboxes in sent for mailbox in mailboxes):
        return  # it does not support a quoted string before the @
    assert not mail.warnings
    found = [[mail.from_] if mail.from_ else [], mail.to, mail.cc, mail.reply_to]
    # After decoding the text before the angle bracket, it strips the end of it again.
    trimmed = [[(name.rstrip(), address) for name, address in written(mailboxes)] for mailboxes in sent]
    assert [[(each.display_name or "", each.address) for each in mailboxes] for mailboxes in found] == trimmed
    assert not mail.bcc


def test_a_plain_email_is_as_plain_as_can_be(row: dict[str, Any]) -> None:
    content = check(Email.from_row(row))
    assert b"\r\nFrom: Shop <shop@example.com>\r\nTo: ada@example.com\r\nDate: " in content
    assert b"\r\nSubject: Hello\r\n" in content
    assert content.endswith(b"\r\n\r\nHi\r\n")


def test_the_id_is_in_what_ses_sends_back_of_long_headers(row: dict[str, Any]) -> None:
    """SES's feedback notifications contain the first 10 KB of the headers."""
    recipients = [f'"{"Long name, " * 18}{number}" <user{number}@example.com>' for number in range(50)]
    email = Email.from_row({**row, "RecipientsTo": recipients, "Headers": {"X-Campaign": "spring"}})
    content = check(email)
    headers = BytesHeaderParser(policy=compat32).parsebytes(content[:10_000]).items()
    callback = feedback("Bounce", None)
    callback["mail"] |= {
        "headersTruncated": True,
        "headers": [{"name": name, "value": str(value)} for name, value in headers],
    }
    (event,) = parse_callback(json.dumps(callback))
    assert event.email_id == email.id
    assert content.startswith(b"X-Email-Id: ")


def test_text_and_html_are_alternatives_and_attachments_stand_beside_them(row: dict[str, Any]) -> None:
    message = read(check(Email.from_row({**row, "BodyHtml": "<p>Hi</p>", "Attachments": [PDF, PDF]})))
    assert [part.get_content_type() for part in message.walk()] == [
        *("multipart/mixed", "multipart/alternative", "text/plain", "text/html", "application/pdf", "application/pdf")
    ]


LOGO = {"name": "logo.png", "content_type": "image/png", "body": "aGVsbG8=", "content_id": "logo@example.com"}


@pytest.mark.parametrize(
    ("bodies", "attachments", "types"),
    [
        ({}, [LOGO], ["multipart/mixed", "text/plain", "image/png"]),
        (
            {"BodyHtml": "<img src='cid:logo@example.com'>"},
            [LOGO],
            ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"],
        ),
        (
            {"BodyHtml": "<img src='cid:logo@example.com'>", "BodyText": None},
            [LOGO, {**LOGO, "content_id": "a%2Fb+c@d", "content_type": "text/html", "name": "<ü>.html"}],
            ["multipart/related", "text/html", "image/png", "text/html"],
        ),
        (
            {"BodyHtml": "<img src='cid:logo@example.com'>"},
            [PDF, LOGO, {**PDF, "content_type": "text/plain"}, {**LOGO, "content_id": "$1{|}~'*!#.a=_`^@x.example"}],
            [
                *("multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html"),
                *("image/png", "image/png", "application/pdf", "text/plain"),
            ],
        ),
        (
            {"BodyHtml": "<p>", "BodyText": None},
            [PDF, LOGO, {**PDF, "content_type": "text/html"}],
            ["multipart/mixed", "multipart/related", "text/html", "image/png", "application/pdf", "text/html"],
        ),
    ],
    ids=["no HTML", "image", "HTML alone", "image and files", "HTML alone and files"],
)
def test_what_the_html_shows_stands_beside_it(
    row: dict[str, Any], bodies: dict[str, Any], attachments: list[Any], types: list[str]
) -> None:
    content = check(Email.from_row({**row, **bodies, "Attachments": attachments}))
    message = read(content)
    assert [part.get_content_type() for part in message.walk()] == types
    related = [part for part in message.walk() if part.get_content_type() == "multipart/related"]
    assert all(part.get_param("type") == "text/html" for part in related), "RFC 2387, section 3.1"
    assert content.count(b"Content-ID: <") == sum(part.get_content_disposition() == "inline" for part in message.walk())


def test_html_alone_is_html_alone(row: dict[str, Any]) -> None:
    assert (
        read(check(Email.from_row({**row, "BodyText": None, "BodyHtml": "<p>Hi</p>"}))).get_content_type()
        == "text/html"
    )


def test_a_recipient_in_blind_copy_is_nowhere_in_the_message(row: dict[str, Any]) -> None:
    del row["RecipientsTo"]
    content = check(Email.from_row({**row, "RecipientsBcc": ["Eve <eve@example.com>"]}))
    assert b"eve" not in content.lower()
    assert read(content)["To"] is None


def test_every_attempt_at_an_email_has_the_same_message_id(row: dict[str, Any]) -> None:
    first, second = Email.from_row(row), Email.from_row({**row, "Subject": "Other", "Attempts": 3})
    assert message_id(first) == message_id(second)
    assert re.fullmatch(r"<[0-9a-f]{32}@example\.com>", message_id(first))
    assert message_id(first) != message_id(Email.from_row({**row, "EmailId": "other"}))


@pytest.mark.parametrize("email_id", ["1", "a" * 190, "ä" * 95, "Ünïcode 😀?", "a/b+c=d"])
def test_the_id_comes_back_from_its_header(row: dict[str, Any], email_id: str) -> None:
    content = check(Email.from_row({**row, "EmailId": email_id}))
    (encoded,) = re.findall(rb"^X-Email-Id: ([A-Za-z0-9_-]+)\r\n", content)
    assert base64.urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)).decode() == email_id


def test_the_date_is_a_date_with_its_zone(row: dict[str, Any]) -> None:
    assert parsedate_to_datetime(read(check(Email.from_row(row)))["Date"]).tzinfo is not None


@pytest.mark.parametrize(
    "subject",
    [
        "Grüße, 世界 😀",
        "a" * 300,
        "a" * 3000,
        "word " * 400 + "end",
        "ü" * 500,
        "Hello 😀 " * 50 + "!",
        "😀" * 60,
        " spaces around ",
        "two  spaces",
        "x" * 60 + "  " + "y" * 60,
        "=?utf-8?q?already_encoded?=",
        "=?",
        INJECTION,
        f"{INJECTION} ü",
        'Re: a, b; c: <d@example.com> "e" (f) [g] \\',
        "\u00a0\u200b\u202e\ufeff\U0010ffff",
    ],
)
def test_a_subject_is_read_as_it_was_written(row: dict[str, Any], subject: str) -> None:
    check(Email.from_row({**row, "Subject": subject}))


@pytest.mark.parametrize(
    "mailboxes",
    [
        ["Ada Lovelace <ada@example.com>"],
        ['"Lovelace, Ada" <ada@example.com>', "eve@example.com"],
        ['"Müller, Ada" <ada@example.com>', '"Ö" <eve@example.com>'],
        [r'"Ada \"Countess\" \\" <ada@example.com>'],
        [r'"Ädä \"Countess\" \\, x" <ada@example.com>'],
        ['"' + "Long name, " * 20 + '" <ada@example.com>', "eve@example.com"],
        ['"' + "Long, " * 162 + 'enders" <ada@example.com>', "eve@example.com"],
        ['"' + "Länger, " * 40 + '" <ada@example.com>', "eve@example.com"],
        ["😀" * 100 + " <ada@example.com>"],
        ['"  two  spaces  " <ada@example.com>'],
        ['"eve@example.com" <ada@example.com>'],
        ['"=?utf-8?q?eve?=" <ada@example.com>'],
        [f'"{INJECTION}" <ada@example.com>'],
        ["O'Brien <o'brien@example.com>", "A. B. <a.b@example.com>", "a/b <a/b@example.com>"],
        ['"ada lovelace"@example.com', r'"a\"b,c"@example.com'],
        ["ada@straße.example", "Ädä <ada@xn--bcher-kva.example>"],
        ["Ädä <ädä@bücher.example>", "eve@example.com"],
        [f"{'a' * 64}@{'.'.join(['b' * 59] * 3)}.example"],
        [f"user{number}@example.com" for number in range(200)],
        [f'"Ü, {number}" <user{number}@example.com>' for number in range(200)],
    ],
)
def test_mailboxes_are_read_as_they_were_written(row: dict[str, Any], mailboxes: list[str]) -> None:
    check(Email.from_row({**row, "RecipientsTo": mailboxes}))
    check(Email.from_row({**row, "RecipientsCc": mailboxes, "ReplyTo": mailboxes, "Sender": mailboxes[0]}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Campaign", "spring"),
        ("X-Campaign", "Frühling"),
        ("X-Campaign", INJECTION),
        ("X-Campaign", "a" * 2000),
        ("X-Campaign", " "),
        ("X-Campaign", ""),
        ("In-Reply-To", f"<{'a' * 100}@example.com>"),
        ("x" * 200, "b" * 790),
        ("x" * 200, "b" * 1000),
    ],
)
def test_a_header_s_text_is_written_whatever_its_name(row: dict[str, Any], name: str, value: str) -> None:
    content = to_mime(Email.from_row({**row, "Headers": {name: value}}))
    raw = message_from_bytes(content, policy=compat32)
    assert str(make_header(decode_header(raw[name]))) == value
    assert raw.get_payload() == "Hi\r\n"
    assert raw["Bcc"] is None


@pytest.mark.parametrize("length", [60, 500, 900])
def test_an_unsubscription_by_one_click_is_written_as_it_stands(row: dict[str, Any], length: int) -> None:
    urls = [f"<https://example.com/{'u' * (length - 20)}>", f"<mailto:u@example.com?subject={'s' * (length - 30)}>"]
    headers = {"List-Unsubscribe": ", ".join(urls), "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}
    content = check(Email.from_row({**row, "Headers": headers}))
    assert all(url.encode() in content for url in urls), "no line break inside"
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in content


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("List-Unsubscribe", f"<https://example.com/{'x' * 300}>, <mailto:unsubscribe@example.com>"),
        ("List-Unsubscribe", ", ".join(f"<https://example.com/{'x' * 500}{number}>" for number in range(3))),
        ("References", " ".join(f"<{'a' * 60}{number}@example.com>" for number in range(40))),
    ],
    ids=["URL", "URLs", "ids"],
)
def test_no_machine_s_header_is_made_encoded_words(row: dict[str, Any], name: str, value: str) -> None:
    content = check(Email.from_row({**row, "Headers": {name: value}}))
    assert b"=?" not in content
    assert f"{name}: {value}".encode() in content.replace(b"\r\n ", b" ")


BODIES = [
    "Hi\n",
    "one\r\ntwo\rthree\nfour",
    "\n\n\nblank lines\n\n\n",
    ".\r\n..\r\n.\r\nQUIT\r\n",
    "From here\n>From there\n",
    "x" * 5000,
    "ü" * 5000,
    "x" * 997 + "\n" + "x" * 998 + "\n" + "x" * 999,
    "Grüße, 世界 😀",
    "trailing space \ntab\t\n=\n=20\n",
    "\x00\x01\x07\x0b\x0c\x1b\x85\u2028",
    "\x00",
    "plain but for the end of a C string\x00",
    "Hi\x00\n" * 3,
    "\x01\x7f",
    "=" * 80,
    *("x" * length + "\x00" for length in range(70, 80)),
    "--===============1==\n--x--\n",
    " ",
    "\n",
    "Å…à" * 30,
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_a_body_is_read_line_by_line_as_it_was_written(row: dict[str, Any], body: str) -> None:
    check(Email.from_row({**row, "BodyText": body}))
    check(Email.from_row({**row, "BodyText": None, "BodyHtml": body}))
    content = check(Email.from_row({**row, "BodyText": body, "BodyHtml": body, "Attachments": [PDF]}))
    assert content.isascii(), "not every hop speaks 8BITMIME"


@pytest.mark.parametrize(
    "name",
    [
        "a b.pdf",
        "Rechnung für März.pdf",
        "発票😀.pdf",
        'a"b".pdf',
        '"',
        "a\\b.pdf",
        "a;b=c, d (e) 'f'.pdf",
        "100%25.pdf",
        "utf-8''a.pdf",
        "../../etc/passwd",
        " spaces around ",
        "=?utf-8?q?a?=.pdf",
        INJECTION,
        "a" * 255,
        "ä" * 127,
        "😀" * 63,
    ],
)
def test_a_file_name_is_read_as_it_was_written(row: dict[str, Any], name: str) -> None:
    check(Email.from_row({**row, "Attachments": [{**PDF, "name": name}, PDF]}))


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/plain; charset=utf-8",
        'text/csv; charset="latin-1"; header=present',
        "text/plain; charset=none-such",
        "text/html",
        "image/svg+xml",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "Application/PDF",
        "application/x; a",
        'application/x; name="',
        f'application/x; name="{INJECTION}"',
        "application/x; boundary=x; filename=y",
        f"application/x; name={'y' * 800}",
    ],
)
def test_a_content_type_is_the_row_s(row: dict[str, Any], content_type: str) -> None:
    content = check(Email.from_row({**row, "Attachments": [{**PDF, "content_type": content_type}]}))
    assert f"\r\nContent-Type: {content_type}\r\n".encode() in content


def test_a_message_takes_seven_times_its_files_of_memory_at_most(row: dict[str, Any]) -> None:
    """docs/producers.md says so, for those who choose a worker's memory."""
    size = 3 * 2**20
    file = {"name": "f.pdf", "content_type": "application/pdf", "body": base64.b64encode(b"x" * size).decode()}
    email = Email.from_row({**row, "Attachments": [file]})
    tracemalloc.start()
    try:
        to_mime(email)
        peak = size + tracemalloc.get_traced_memory()[1]  # the email already contains the file
    finally:
        tracemalloc.stop()
    assert peak < 7 * size


@pytest.mark.parametrize("content_type", ["message/rfc822", "Message/delivery-status", "message/external-body"])
def test_an_attached_message_keeps_every_byte(row: dict[str, Any], content_type: str) -> None:
    body = base64.b64encode(b"Subject: x\n\n\xff\x00\r.\n").decode()
    attachment = {"name": "mail.eml", "content_type": content_type, "body": body}
    (part,) = read(check(Email.from_row({**row, "Attachments": [attachment]}))).iter_attachments()
    assert part.get_content_type() == "application/octet-stream"


def test_a_message_is_ascii_but_for_addresses_that_cannot_be(row: dict[str, Any]) -> None:
    ascii_only = {**row, "Subject": "ü", "RecipientsTo": ["ü <ada@bücher.example>"], "BodyText": "ü"}
    assert check(Email.from_row(ascii_only)).isascii()
    content = check(Email.from_row({**ascii_only, "ReplyTo": ["ü@example.com"]}))
    assert re.findall(rb"[^\x00-\x7f]+", content) == ["ü".encode()]
    assert "\r\nReply-To: ü@example.com\r\n".encode() in content


# Everything that a row may have within a line. It excludes control characters, line breaks and surrogates.
line_characters = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
awkward = st.sampled_from(
    ["=?utf-8?q?a=0D=0Ab?=", "=?", "?=", '"', "\\", ",", "  ", "ü", "😀", "<", ">", "(", "a" * 80, "%", "'"]
)
line_texts = st.lists(awkward | st.text(line_characters, max_size=30), max_size=8).map("".join)
names = st.text(line_characters, min_size=1, max_size=12) | line_texts
local_parts = st.from_regex(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ü-]{1,20}(\.[a-zü]{1,5})?", fullmatch=True)
domains = st.sampled_from(["example.com", "bücher.example", "localhost", f"{'b' * 60}.{'c' * 60}.example"])


def mailbox(name: str, local_part: str, domain: str) -> str:
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{local_part}@{domain}>'


mailboxes = st.builds(mailbox, line_texts, local_parts, domains) | st.builds("{}@{}".format, local_parts, domains)
bodies = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.sampled_from(["\r\n", "\r", "\n", "\n.\n", "x" * 1200, "ü" * 400, "From ", " \n", "=", "\x00"]),
    max_size=8,
).map("".join)
attachments = st.fixed_dictionaries(
    {
        "content_id": st.none() | st.uuids().map("{}@example.com".format),
        "name": names.filter(lambda name: 0 < len(name.encode()) <= 255),
        "content_type": st.sampled_from(["application/pdf", "text/plain; charset=utf-8", "image/png"]),
        "body": st.binary(max_size=200).map(lambda content: base64.b64encode(content).decode()),
    }
)
rows = st.fixed_dictionaries(
    {
        "EmailId": names.filter(str.strip),
        "EmailStatus": st.just("Pending"),
        "Subject": line_texts.filter(bool),
        "Sender": mailboxes,
        "RecipientsTo": st.lists(mailboxes, min_size=1, max_size=4),
        "RecipientsCc": st.lists(mailboxes, max_size=2),
        "ReplyTo": st.lists(mailboxes, max_size=2),
        "BodyText": bodies.filter(bool),
        "BodyHtml": bodies,
        "Attachments": st.lists(attachments, max_size=2),
        "Headers": st.dictionaries(st.just("X-Custom"), line_texts, max_size=1),
    }
)


@hypothesis.settings(deadline=None, max_examples=80, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@given(rows)
def test_any_email_that_maps_is_read_as_it_was_written(row: dict[str, Any]) -> None:
    check(Email.from_row(row))


# This allows more than 7bit, because it has U+0000.
ascii_texts = st.text(st.characters(max_codepoint=127), max_size=90)
long_lines = st.builds(
    lambda start, length, end: start + "x" * length + end, ascii_texts, st.integers(70, 1000), bodies
)
any_body = st.lists(ascii_texts | long_lines | bodies, min_size=1, max_size=4).map("".join).filter(bool)
files = st.fixed_dictionaries(
    {
        "name": st.just("a"),
        "content_type": st.sampled_from(["text/plain", "message/rfc822", "application/x-7bit; charset=us-ascii"]),
        "content_id": st.none() | st.just("a@b"),
        "body": st.binary(max_size=90) | any_body.map(str.encode),
    }
)


@hypothesis.settings(deadline=None, max_examples=100)
@given(text=any_body, html=any_body | st.none(), attachments=st.lists(files, max_size=1))
def test_no_body_and_no_file_breaks_a_rule_of_its_encoding(
    text: str, html: str | None, attachments: list[dict[str, Any]]
) -> None:
    row = {
        "EmailId": "email-1",
        "EmailStatus": "Pending",
        "Subject": "Hello",
        "Sender": "shop@example.com",
        "RecipientsTo": ["ada@example.com"],
        "BodyText": text,
        "BodyHtml": html,
        "Attachments": [file | {"body": Binary(file["body"])} for file in attachments],
    }
    check(Email.from_row(row))


def comparable(content: bytes) -> bytes:
    """Return the message with its boundaries numbered, which are random, and without its Date."""
    boundaries = list(dict.fromkeys(re.findall(rb'\r\n boundary="(={15}\d{19}==)"', content)))
    for number, boundary in enumerate(boundaries):
        content = content.replace(boundary, b"boundary %d" % number)
    headers, _, rest = content.partition(b"\r\n\r\n")
    assert headers.count(b"\r\nDate: ") == 1
    return re.sub(rb"\r\nDate: [^\r]+", b"", headers) + b"\r\n\r\n" + rest


def check_against_the_standard_library(row: dict[str, Any]) -> None:
    email = Email.from_row(row)
    expected = bytes(mime_of_the_standard_library.to_mime(email))
    assert comparable(to_mime(email)) == comparable(expected)


various_files = st.lists(attachments | files.map(lambda file: file | {"body": Binary(file["body"])}), max_size=4)
various_bodies = (any_body | bodies | st.text(st.characters(exclude_categories=["Cs"]), max_size=400)).filter(bool)


@hypothesis.settings(deadline=None, max_examples=150, suppress_health_check=[hypothesis.HealthCheck.too_slow])
@given(row=rows, bodies=st.tuples(various_bodies, various_bodies), has=st.integers(1, 3), files=various_files)
def test_every_byte_is_what_the_standard_library_writes(
    row: dict[str, Any], bodies: tuple[str, str], has: int, files: list[dict[str, Any]]
) -> None:
    text, html = (body if has & bit else None for body, bit in zip(bodies, (1, 2), strict=True))
    ids = [file["content_id"] for file in files]
    own_ids = [
        file | {"content_id": file["content_id"] if ids.count(file["content_id"]) == 1 else None} for file in files
    ]
    check_against_the_standard_library(row | {"BodyText": text, "BodyHtml": html, "Attachments": own_ids})


@pytest.mark.parametrize(
    "line", ["a" * 76, "a" * 77, "ü" * 30, "aaü", "a" * 75 + " ", "\0", "😀a", "=" * 30, "\x1c\x85\t"]
)
def test_a_text_s_encoding_is_what_the_standard_library_chooses(row: dict[str, Any], line: str) -> None:
    """Its choice depends on the longest line and on the first ten lines."""
    for count, end, last in product((1, 9, 10, 11, 40), ("\n", "\r", "\r\n", ""), ("", "ü" * 100, " ")):
        check_against_the_standard_library(row | {"BodyText": (line + end) * count + last})


@pytest.mark.parametrize("size", [0, 1, 56, 57, 58, 114, 1000])
def test_a_file_is_what_the_standard_library_writes(row: dict[str, Any], size: int) -> None:
    check_against_the_standard_library(row | {"Attachments": [PDF | {"body": Binary(b"x" * size)}]})
