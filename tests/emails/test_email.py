"""Rows in the form that boto3's TypeDeserializer returns: the emails they become, and the errors for invalid ones."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from email.headerregistry import Address
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from boto3.dynamodb.types import Binary, TypeDeserializer, TypeSerializer
from hypothesis import given
from hypothesis import strategies as st

from emails.email import Attachment, Email, InvalidRow
from emails.status import EmailStatus, status_of

if TYPE_CHECKING:
    from collections.abc import Callable

ADA = Address("", "ada", "example.com")
GRACE = Address("Grace Hopper", "grace", "example.com")
PDF = {"name": "a.pdf", "content_type": "application/pdf", "body": "aGVsbG8="}
EMPTY: list[Any] = [None, "", [], {}, set(), Binary(b"")]

serialize = TypeSerializer().serialize
deserialize = TypeDeserializer().deserialize


def problems(row: dict[str, Any]) -> dict[str, str]:
    """Return what is wrong with the row, by attribute."""
    with pytest.raises(InvalidRow) as raised:
        Email.from_row(row)
    return dict(problem.split(": ", 1) for problem in str(raised.value).split("; "))


def test_a_row_of_every_attribute_is_mapped(row: dict[str, Any]) -> None:
    every = {
        **row,
        "RecipientsTo": ["ada@example.com", "Grace Hopper <grace@example.com>"],
        "RecipientsCc": ["cc@example.com"],
        "RecipientsBcc": ["bcc@example.com"],
        "ReplyTo": ["reply@example.com"],
        "BodyHtml": "<p>Hi</p>",
        "Attachments": [
            {**PDF, "size": 5, "e_tag": "5d41402a", "last_modified": "2026-01-31T12:00:00Z"},
            {**PDF, "body": b"hello"},
        ],
        "Headers": {"X-Campaign": "spring", "List-Unsubscribe": "<https://example.com/u>"},
        "Tags": {"team": "shop"},
        "SendAfter": "2026-01-31T12:00:00Z",
        "ExpiresAt": "2026-01-31T14:00:00+02:00",
        "SendVia": "stub",
        "Attempts": 2,
        "NextAttemptAt": 1_769_860_800,
        "ClaimExpiresAt": Decimal("1769860800.5"),
        "ClaimedBy": "b1946ac9",
        "UpdatedAt": "2026-01-31T12:00:00.000+00:00",
        "Customer": {"Number": 7},
    }
    email = Email.from_row(deserialize(serialize(every)))
    assert email.id == row["EmailId"]
    assert email.status is EmailStatus.PENDING
    assert (email.subject, email.text, email.html) == ("Hello", "Hi", "<p>Hi</p>")
    assert email.sender == Address("Shop", "shop", "example.com")
    assert email.to == [ADA, GRACE]
    assert [mailbox.username for mailbox in email.recipients] == ["ada", "grace", "cc", "bcc"]
    assert [mailbox.username for mailbox in email.reply_to] == ["reply"]
    assert [attachment.body for attachment in email.attachments] == [b"hello", b"hello"]
    assert email.headers == {"X-Campaign": "spring", "List-Unsubscribe": "<https://example.com/u>"}
    assert email.tags == {"team": "shop"}
    assert email.send_after == email.expires_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert email.send_via == "stub"
    assert (email.attempts, email.next_attempt_at, email.claim_expires_at) == (2, 1_769_860_800, 1_769_860_800.5)


def test_recipients_may_be_a_string_set(row: dict[str, Any]) -> None:
    row["RecipientsTo"] = {"b@example.com", "a@example.com", "c@example.com"}
    mapped = Email.from_row(deserialize(serialize(row))).to
    assert [mailbox.username for mailbox in mapped] == ["a", "b", "c"], "in the same order for every attempt"


@pytest.mark.parametrize("attribute", ["Sender", "RecipientsTo", "RecipientsCc", "RecipientsBcc", "ReplyTo"])
def test_no_address_of_a_row_has_an_invisible_character(row: dict[str, Any], attribute: str) -> None:
    address = "\u200bada@example.com"
    named = attribute if attribute == "Sender" else f"{attribute}[0]"
    assert problems({**row, attribute: address if attribute == "Sender" else [address]}) == {
        named: "has an invisible character, U+200B, in its address"
    }


def test_every_recipient_is_in_the_envelope_once(row: dict[str, Any]) -> None:
    email = Email.from_row(
        {
            **row,
            "RecipientsTo": ["ada@example.com", "Ada <ada@EXAMPLE.com>", "b@bücher.example"],
            "RecipientsCc": ["Ada@example.com", '"ada"@example.com'],
            "RecipientsBcc": ["b@XN--bcher-KVA.example", "c@example.com", "ada@example.com"],
        }
    )
    assert [mailbox.addr_spec for mailbox in email.recipients] == [
        *("ada@example.com", "b@xn--bcher-kva.example", "Ada@example.com", "c@example.com")
    ]
    assert len(email.to) == 3, "the headers are as the row has them"


@pytest.mark.parametrize(
    ("attribute", "name"),
    [("RecipientsTo", "to"), ("RecipientsCc", "cc"), ("RecipientsBcc", "bcc"), ("ReplyTo", "reply_to")],
)
def test_an_empty_string_among_addresses_is_skipped_and_logged(
    row: dict[str, Any], caplog: pytest.LogCaptureFixture, attribute: str, name: str
) -> None:
    email = Email.from_row({**row, attribute: ["", "ada@example.com", ""]})
    assert getattr(email, name) == [ADA]
    assert caplog.messages == [f"{attribute} has an empty string, which is skipped"]


def test_an_empty_string_among_addresses_leaves_the_others_their_place(row: dict[str, Any]) -> None:
    assert list(problems({**row, "RecipientsTo": ["", "eve", "", "bob"]})) == ["RecipientsTo[1]", "RecipientsTo[3]"]


def test_a_list_of_empty_strings_names_no_recipient(row: dict[str, Any]) -> None:
    said = {"RecipientsTo": "is missing, as are RecipientsCc and RecipientsBcc"}
    assert problems({**row, "RecipientsTo": ["", ""]}) == said
    assert problems({**row, "RecipientsTo": None, "RecipientsBcc": {""}}) == said


@pytest.mark.parametrize("recipients", ["RecipientsTo", "RecipientsCc", "RecipientsBcc"])
def test_one_recipient_anywhere_is_enough(row: dict[str, Any], recipients: str) -> None:
    del row["RecipientsTo"]
    assert Email.from_row({**row, recipients: ["ada@example.com"]}).recipients == [ADA]


@pytest.mark.parametrize("body", ["BodyHtml", "BodyText"])
def test_one_body_is_enough(row: dict[str, Any], body: str) -> None:
    del row["BodyText"]
    Email.from_row({**row, body: "Hi"})


@pytest.mark.parametrize(
    "attribute",
    [
        *("RecipientsCc", "RecipientsBcc", "ReplyTo", "BodyHtml", "Attachments", "Headers", "Tags", "SendAfter"),
        *("ExpiresAt", "SendVia", "Attempts", "NextAttemptAt", "ClaimExpiresAt"),
    ],
)
def test_an_optional_attribute_that_is_empty_is_one_that_is_missing(row: dict[str, Any], attribute: str) -> None:
    missing = Email.from_row(row)
    for empty in EMPTY:
        assert Email.from_row({**row, attribute: empty}) == missing


@pytest.mark.parametrize("attribute", ["EmailId", "EmailStatus", "Subject", "Sender"])
def test_a_required_attribute_that_is_empty_is_missing(row: dict[str, Any], attribute: str) -> None:
    for empty in EMPTY:
        assert problems({**row, attribute: empty}) == {attribute: "is missing"}
    del row[attribute]
    assert problems(row) == {attribute: "is missing"}


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
def test_a_row_needs_a_recipient_and_a_body(row: dict[str, Any], empty: object) -> None:
    assert problems({**row, "RecipientsTo": empty, "BodyText": empty}) == {
        "RecipientsTo": "is missing, as are RecipientsCc and RecipientsBcc",
        "BodyText": "is missing, as is BodyHtml",
    }


@pytest.mark.parametrize(
    ("attribute", "value", "named", "wrong"),
    [
        ("EmailId", "a\nb", "EmailId", "has a line break or another control character"),
        ("EmailId", Decimal(5), "EmailId", "should be a valid string"),
        ("EmailStatus", "Waiting", "EmailStatus", "should be 'Pending', 'Sending', "),
        ("EmailStatus", Binary(b"x"), "EmailStatus", "should be 'Pending', 'Sending', "),
        ("Subject", "a\r\nBcc: eve@example.com", "Subject", "has a line break or another control character"),
        ("Subject", Decimal(5), "Subject", "should be a valid string"),
        ("Sender", "shop", "Sender", "is not an address: it has no @"),
        ("Sender", ["shop@example.com"], "Sender", "is not a string"),
        ("RecipientsTo", "ada@example.com", "RecipientsTo", "should be a valid list"),
        ("RecipientsTo", {"ada": "ada@example.com"}, "RecipientsTo", "should be a valid list"),
        ("RecipientsTo", ["ada@example.com", "eve"], "RecipientsTo[1]", "is not an address: it has no @"),
        ("RecipientsTo", ["ada@example.com", None], "RecipientsTo[1]", "is not a string"),
        ("RecipientsTo", {Binary(b"ada@example.com")}, "RecipientsTo[0]", "is not a string"),
        ("RecipientsCc", [Decimal(5)], "RecipientsCc[0]", "is not a string"),
        (
            "RecipientsBcc",
            ["a@b@c"],
            "RecipientsBcc[0]",
            'is not an address like ada@example.com or "Ada Lovelace" <ada@',
        ),
        ("ReplyTo", ["a\n@example.com"], "ReplyTo[0]", "has a control character"),
        ("BodyText", Decimal(5), "BodyText", "should be a valid string"),
        ("BodyHtml", "\ud800", "BodyHtml", "has a lone surrogate, which no charset can encode"),
        ("Attachments", "a.pdf", "Attachments", "should be a valid list"),
        ("Attachments", ["a.pdf"], "Attachments[0]", "should be a valid dictionary"),
        ("Attachments", [PDF, {**PDF, "name": ""}], "Attachments[1].name", "is missing"),
        ("Attachments", [{**PDF, "name": "a\nb"}], "Attachments[0].name", "has a line break or another control char"),
        ("Attachments", [{**PDF, "name": "ä" * 128}], "Attachments[0].name", "is longer than 255 bytes"),
        ("Attachments", [{**PDF, "content_type": None}], "Attachments[0].content_type", "is missing"),
        ("Attachments", [{**PDF, "content_type": "pdf"}], "Attachments[0].content_type", "should match pattern"),
        ("Attachments", [{**PDF, "content_type": "a/b; c=ä"}], "Attachments[0].content_type", "should match pattern"),
        ("Attachments", [{**PDF, "content_type": "a/b;\r\nc: d"}], "Attachments[0].content_type", "has a line break"),
        ("Attachments", [{**PDF, "content_type": "Multipart/mixed"}], "Attachments[0]", "content_type is multipart"),
        (
            "Attachments",
            [{**PDF, "content_id": "logo"}],
            "Attachments[0].content_id",
            "is not an id like logo@example.com",
        ),
        (
            "Attachments",
            [{**PDF, "content_id": "<a@b>"}],
            "Attachments[0].content_id",
            "is not an id like logo@example",
        ),
        (
            "Attachments",
            [{**PDF, "content_id": "a@b\r\nc"}],
            "Attachments[0].content_id",
            "is not an id like logo@exam",
        ),
        (
            "Attachments",
            [{**PDF, "content_id": "a@b\n"}],
            "Attachments[0].content_id",
            "is not an id like logo@example.com",
        ),
        (
            "Attachments",
            [{**PDF, "content_id": "ä@b"}],
            "Attachments[0].content_id",
            "is not an id like logo@example.com",
        ),
        (
            "Attachments",
            [{**PDF, "content_id": "a@b" * 67}],
            "Attachments[0].content_id",
            "is not an id like logo@exampl",
        ),
        ("Attachments", [{**PDF, "content_id": Decimal(5)}], "Attachments[0].content_id", "should be a valid string"),
        ("Attachments", [{**PDF, "content_id": "a@b"}] * 2, "Attachments", "two of them have the same content_id"),
        ("Attachments", [{**PDF, "body": None}], "Attachments[0]", "has neither body nor s3_uri"),
        ("Attachments", [{**PDF, "body": None, "s3_uri": ""}], "Attachments[0]", "has neither body nor s3_uri"),
        ("Attachments", [{**PDF, "body": []}], "Attachments[0].body", "is not base64"),
        ("Attachments", [{**PDF, "body": "", "size": Decimal(5)}], "Attachments[0]", "size is 5, but body has 0 bytes"),
        ("Attachments", [{**PDF, "body": "secret!"}], "Attachments[0].body", "is not base64"),
        ("Attachments", [{**PDF, "body": Decimal(1234)}], "Attachments[0].body", "is not base64"),
        ("Attachments", [{**PDF, "size": Decimal(4)}], "Attachments[0]", "size is 4, but body has 5 bytes"),
        ("Attachments", [{**PDF, "s3_uri": "s3://bucket/a"}], "Attachments[0]", "has both body and s3_uri"),
        ("Attachments", [{**PDF, "e_tag": "a\r\nb"}], "Attachments[0].e_tag", "should match pattern"),
        ("Attachments", [{**PDF, "e_tag": '"a"b"'}], "Attachments[0].e_tag", "should match pattern"),
        ("Attachments", [{**PDF, "e_tag": "ä"}], "Attachments[0].e_tag", "should match pattern"),
        ("Headers", ["X-A"], "Headers", "should be a valid dictionary"),
        ("Headers", {"X-A": "b\r\nBcc: eve@example.com"}, "Headers.X…", "has a line break or another control char"),
        ("Headers", {"X-A": Decimal(5)}, "Headers.X…", "should be a valid string"),
        ("Headers", {"X A": "b"}, "Headers.X…", "should match pattern"),
        ("Headers", {"X-A:": "b"}, "Headers.X-…", "should match pattern"),
        ("Headers", {"X-Ä": "b"}, "Headers.X…", "should match pattern"),
        ("Headers", {"X\r\nBcc": "b"}, "Headers.X??…", "should match pattern"),
        ("Headers", {"x" * 201: "b"}, f"Headers.{'x' * 8}…", "should have at most 200 characters"),
        ("Tags", {"team": "a\r\nb"}, "Tags.te…", "has a line break or another control character"),
        ("Tags", {"te\nam": "a"}, "Tags.te…", "has a line break or another control character"),
        ("Tags", {"team": Decimal(5)}, "Tags.te…", "should be a valid string"),
        ("SendAfter", "tomorrow", "SendAfter", "is not an ISO 8601 time like 2026-01-31T12:00:00Z"),
        ("SendAfter", Decimal(1_769_860_800), "SendAfter", "is not an ISO 8601 time like 2026-01-31T12:00:00Z"),
        ("SendAfter", Decimal(20260131), "SendAfter", "is not an ISO 8601 time like 2026-01-31T12:00:00Z"),
        ("ExpiresAt", "2026-02-30", "ExpiresAt", "is not an ISO 8601 time like 2026-01-31T12:00:00Z"),
        ("ExpiresAt", Binary(b"2026-01-31"), "ExpiresAt", "is not an ISO 8601 time like 2026-01-31T12:00:00Z"),
        ("SendVia", ["stub"], "SendVia", "should be a valid string"),
        ("Attempts", "2", "Attempts", "should be a valid number"),
        ("NextAttemptAt", True, "NextAttemptAt", "should be a valid number"),
        ("ClaimExpiresAt", Binary(b"5"), "ClaimExpiresAt", "should be a valid number"),
    ],
)
def test_a_bad_row_names_the_attribute_and_what_is_wrong_with_it(
    row: dict[str, Any], *, attribute: str, value: object, named: str, wrong: str
) -> None:
    (found,) = problems({**row, attribute: value}).items()
    assert found[0] == named
    assert found[1].startswith(wrong)


@pytest.mark.parametrize("key", ["a", "a/b c.pdf", "mail//a", "..a", "a..", "a/...", "ü%20 #?&+", "k" * 1024])
def test_a_file_may_lie_in_s3(row: dict[str, Any], key: str) -> None:
    file = {**PDF, "body": None, "s3_uri": f"s3://a-bucket.2/{key}", "size": Decimal(5), "e_tag": '"5d41402a"'}
    (attachment,) = Email.from_row({**row, "Attachments": [file]}).attachments
    assert (attachment.s3_uri, attachment.body) == (file["s3_uri"], None)
    assert "s3://" not in repr(attachment)


@pytest.mark.parametrize(
    ("uri", "wrong"),
    [
        *(
            (uri, "is not a URI like s3://bucket/folder/file.pdf")
            for uri in (
                *(
                    "a.pdf",
                    "https://bucket/a",
                    "S3://bucket/a",
                    "s3:/bucket/a",
                    "s3://bucket",
                    "s3://bucket/",
                    "s3:///a",
                ),
                *(
                    "s3://Bucket/a",
                    "s3://b/a",
                    "s3://eve@bucket/a",
                    "s3://bucket:80/a",
                    "s3://bücket/a",
                    " s3://bucket/a",
                ),
                *("s3://arn:aws:s3:::bucket/a", "s3://bucket/a\nb", "s3://bucket/a\x00", "s3://bucket/\ud800"),
                *("s3://bucket/" + "k" * 1025, "s3://bucket/" + "ü" * 513, "s3://.bucket/a", "s3://bucket%2fa/b"),
            )
        ),
        *(
            (f"s3://bucket/{key}", "has a folder . or .., which may lead outside the allowed prefix")
            for key in (
                *(
                    "..",
                    "../a",
                    "mail/../a",
                    "mail/..",
                    "mail/./a",
                    "./a",
                    "mail/%2e%2E/a",
                    "mail/.%2e/a",
                    "mail/..%2fa",
                ),
            )
        ),
        (Decimal(5), "should be a valid string"),
    ],
)
def test_an_s3_uri_that_is_none_is_refused(row: dict[str, Any], uri: object, wrong: str) -> None:
    said = problems({**row, "Attachments": [{**PDF, "body": None, "s3_uri": uri}]})
    assert said == {"Attachments[0].s3_uri": wrong}


def test_everything_that_is_wrong_is_said_at_once(row: dict[str, Any]) -> None:
    bad = {**row, "Subject": None, "Sender": "shop", "RecipientsTo": ["eve", "ada@example.com", "bob"], "BodyText": ""}
    assert list(problems({**bad, "Headers": {"To": "x"}, "SendAfter": "soon"})) == [
        *("Subject", "Sender", "RecipientsTo[0]", "RecipientsTo[2]", "BodyText", "Headers.T…", "SendAfter")
    ]


@pytest.mark.parametrize("attribute", ["Headers", "Tags"])
@pytest.mark.parametrize("name", ["eve@example.com", "secret", "s3cr\net", "Bearer c2VjcmV0", "x" * 300])
def test_a_refused_name_is_not_said_whole(row: dict[str, Any], attribute: str, name: str) -> None:
    with pytest.raises(InvalidRow) as raised:
        Email.from_row({**row, attribute: {name: Decimal(5)}})
    shown = f"{name[: min(8, len(name) // 2)]}…".replace("\n", "?")
    assert {part.partition(":")[0] for part in str(raised.value).split("; ")} == {f"{attribute}.{shown}"}


def test_what_is_wrong_is_said_without_the_value(row: dict[str, Any]) -> None:
    secret = "eve the secret"
    bad = {
        **row,
        "Subject": f"{secret}\n",
        "Sender": secret,
        "RecipientsTo": [secret],
        "BodyText": [secret],
        "Attachments": [{**PDF, "name": f"{secret}\n", "content_type": secret, "body": secret, "content_id": secret}],
        "Headers": {"X-A": f"{secret}\n"},
        "SendAfter": secret,
        "Attempts": secret,
    }
    with pytest.raises(InvalidRow) as raised:
        Email.from_row(bad)
    assert "eve" not in str(raised.value)
    assert raised.value.__suppress_context__, "a traceback would show pydantic's error, values and all"
    assert raised.value.__cause__ is None


def test_no_repr_shows_an_address_or_content(row: dict[str, Any]) -> None:
    email = Email.from_row({**row, "Subject": "secret", "BodyText": "secret", "Attachments": [PDF]})
    assert repr(email) == f"Email(id='{row['EmailId']}', status=<EmailStatus.PENDING: 'Pending'>)"
    assert "hello" not in repr(email.attachments)


def test_an_attachment_s_body_may_have_the_line_breaks_of_base64_in_a_shell(row: dict[str, Any]) -> None:
    content = bytes(range(256))
    body = base64.encodebytes(content).decode()
    assert body.count("\n") > 1
    (attachment,) = Email.from_row({**row, "Attachments": [{**PDF, "body": body, "size": Decimal(256)}]}).attachments
    assert attachment.body == content


@pytest.mark.parametrize("body", ["", Binary(b""), b"", "\n"])
@pytest.mark.parametrize("size", [{}, {"size": Decimal(0)}], ids=["no size", "size 0"])
def test_an_attachment_with_an_empty_body_is_a_file_of_0_bytes(
    row: dict[str, Any], body: object, size: dict[str, Any]
) -> None:
    file = {"name": "empty.log", "content_type": "text/plain", "body": body, "s3_uri": "", **size}
    (attachment,) = Email.from_row(deserialize(serialize({**row, "Attachments": [file]}))).attachments
    assert attachment.body == b""


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
def test_an_empty_body_beside_an_s3_uri_is_none(row: dict[str, Any], empty: object) -> None:
    file = {**PDF, "body": empty, "s3_uri": "s3://bucket/a", "size": Decimal(5)}
    (attachment,) = Email.from_row({**row, "Attachments": [file]}).attachments
    assert (attachment.body, attachment.s3_uri) == (None, "s3://bucket/a")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.123456+00:00", datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2026-01-31 12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("20260131T120000Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00-05:30", datetime(2026, 1, 31, 12, tzinfo=timezone(-timedelta(hours=5, minutes=30)))),
    ],
)
def test_a_time_without_a_zone_is_utc(row: dict[str, Any], text: str, moment: datetime) -> None:
    assert Email.from_row({**row, "SendAfter": text, "ExpiresAt": text}).send_after == moment


ATTRIBUTES = [field.alias or name for name, field in Email.model_fields.items()]
KEYS = [*Attachment.model_fields, "X-A", "Subject", "team", ""]

texts = st.text(max_size=12) | st.sampled_from(
    [
        "Pending",
        "ada@example.com",
        "Ada <ada@example.com>",
        "2026-01-31T12:00:00Z",
        "application/pdf",
        "aGVsbG8=",
        "s3://bucket/a",
        "\ud800",
    ]
)
scalars = (
    texts
    | st.none()
    | st.booleans()
    | st.decimals(allow_nan=False, allow_infinity=False, min_value=Decimal("-1E126"), max_value=Decimal("1E126"))
    | st.binary(max_size=8).map(Binary)
)
sets = st.sets(texts, min_size=1, max_size=3) | st.sets(st.binary(max_size=3).map(Binary), min_size=1, max_size=3)
values = st.recursive(
    scalars | sets,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=4),
    max_leaves=6,
)
sendable = st.just(
    {
        "EmailId": "email-1",
        "EmailStatus": "Pending",
        "Subject": "Hello",
        "Sender": "shop@example.com",
        "RecipientsTo": ["ada@example.com"],
        "BodyText": "Hi",
    }
)
changes = st.dictionaries(st.sampled_from(ATTRIBUTES) | texts, values, max_size=4)


@hypothesis.settings(deadline=None, max_examples=150)
@given(st.builds(lambda row, change: row | change, sendable, changes) | changes)
def test_any_row_is_an_email_or_an_invalid_row_that_names_an_attribute(row: dict[str, Any]) -> None:
    assert status_of(row) is None or isinstance(status_of(row), str)
    try:
        email = Email.from_row(row)
    except InvalidRow as error:
        said = str(error)
    else:
        assert email.recipients
        assert email.text or email.html
        return
    assert any(said.startswith(attribute) for attribute in ATTRIBUTES)
    assert "\n" not in said


# Characters that end or hide a line for any reader: C0, DEL, C1, and Unicode's line and paragraph separators.
control_characters = st.characters(categories=["Cc", "Zl", "Zp"])
LINES: dict[str, Callable[[str], Any]] = {
    "EmailId": str,
    "Subject": str,
    "Sender": "{} <shop@example.com>".format,
    "RecipientsTo": lambda text: [f'"{text}" <ada@example.com>'],
    "RecipientsCc": lambda text: [f"ada@{text}.example"],
    "RecipientsBcc": lambda text: [f"ada{text}@example.com"],
    "ReplyTo": lambda text: [f'"ada{text}"@example.com'],
    "Headers": lambda text: {"X-Custom": text},
    "Headers.": lambda text: {f"X-{text}": "custom"},
    "Tags": lambda text: {"tag": text},
    "Tags.": lambda text: {text: "tag"},
    "Attachments": lambda text: [{**PDF, "name": text}],
    "Attachments[0].content_id": lambda text: [{**PDF, "content_id": f"a{text}@b"}],
    "Attachments[0].content_type": lambda text: [{**PDF, "content_type": f"a/b; c={text}"}],
}


@hypothesis.settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from([*LINES]),
    before=st.sampled_from(["", "a", "a b"]),
    control=control_characters,
    after=st.sampled_from(["", "Bcc: eve@example.com", "b"]),
)
def test_no_line_may_have_a_control_character_wherever_it_stands(
    name: str, before: str, control: str, after: str
) -> None:
    attribute = name.partition("[")[0].rstrip(".")
    row = {
        "EmailId": "email-1",
        "EmailStatus": "Pending",
        "Subject": "Hello",
        "Sender": "shop@example.com",
        "RecipientsTo": ["ada@example.com"],
        "BodyText": "Hi",
        attribute: LINES[name](f"{before}{control}{after}"),
    }
    with pytest.raises(InvalidRow) as raised:
        Email.from_row(row)
    assert str(raised.value).startswith(attribute)
