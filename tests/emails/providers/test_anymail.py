"""The services behind django-anymail: what each is asked, and what its answers mean."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from boto3.dynamodb.types import Binary
from hypothesis import given
from hypothesis import strategies as st

from emails.email import Email, InvalidRow
from emails.encoded_id import ID_TAG, encoded_id
from emails.events import RejectReason
from emails.providers import load_providers, unknown_variables
from emails.providers.anymail import AnymailProvider
from emails.providers.anymail_services import INSTALL, SERVICES
from emails.providers.api_client import body
from emails.providers.contract import PermanentError, SendError, TemporaryError, UnknownResultError
from emails.sender import Sender
from settings import Settings, SettingsError
from tests.emails.providers.backends import REQUIRED, anymail_provider, environment
from tests.support.anymail_server import AnymailServer, Call, Reply, headers, recipients
from tests.support.api_server import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emails.store import EmailStore, EventStore

QUARTER_HOUR, HOUR = 900, 3600
VIA_RESEND = {"provider": ("resend",)}
MARK = "pr1vate"
TO, CC, BCC = (f"{MARK}-{kind}@example.com" for kind in ("to", "cc", "bcc"))


@pytest.fixture(scope="module")
def running_server() -> Iterator[AnymailServer]:
    with running(AnymailServer()) as server:
        yield server


@pytest.fixture
def server(running_server: AnymailServer) -> AnymailServer:
    running_server.forget()
    return running_server


@pytest.fixture
def new_email(row: dict[str, Any]) -> Callable[..., Email]:
    return lambda **attributes: Email.from_row(row | {"RecipientsTo": [TO], "Attempts": 1} | attributes)


@pytest.fixture(params=SERVICES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _refused(server: AnymailServer, name: str, email: Email, *replies: Reply) -> SendError:
    (server.reply,) = replies
    with pytest.raises(SendError) as raised:
        anymail_provider(name, server.url).send(email)
    assert len(server.calls) == 1
    return raised.value


# --- Requests


def test_a_service_accepts_an_email_for_everybody(
    server: AnymailServer, name: str, new_email: Callable[..., Email]
) -> None:
    receipt = anymail_provider(name, server.url).send(new_email(RecipientsCc=[CC], RecipientsBcc=[BCC]))
    (call,) = server.calls
    assert recipients(name, call) == [TO, CC, BCC]
    assert (receipt.provider, receipt.refused, bool(receipt.message_id)) == (name, (), True)
    assert MARK not in f"{receipt!r}"


def test_the_id_travels_where_callbacks_bring_it_back(
    server: AnymailServer, name: str, new_email: Callable[..., Email]
) -> None:
    email = new_email(EmailId="ünique")
    anymail_provider(name, server.url).send(email)
    (call,) = server.calls
    if name == "mailersend":  # only its most expensive plan allows headers
        assert "X-Email-Id" not in headers(name, call)
        assert call.json["tags"] == [encoded_id(email.id)]
    else:
        assert headers(name, call)["X-Email-Id"] == encoded_id(email.id)
    if name == "postal":
        assert call.json["tag"] == encoded_id(email.id)
    if SERVICES[name].has_metadata:
        assert call.body.count(ID_TAG.encode()) == 1
        assert call.body.count(encoded_id(email.id).encode()) == 2


def test_everything_of_an_email_is_in_the_request(
    server: AnymailServer, name: str, new_email: Callable[..., Email]
) -> None:
    pdf = bytes(range(256))
    email = new_email(
        Subject="A subject",
        Sender="Ada <ada@example.com>",
        ReplyTo=["reply@example.com"],
        BodyText="a text",
        BodyHtml="<p>HTML",
        Headers={"X-Shop": "a header"},
        Attachments=[{"name": "bill.pdf", "content_type": "application/pdf", "body": Binary(pdf)}],
    )
    anymail_provider(name, server.url).send(email)
    (call,) = server.calls
    written = json.dumps(call.form()) if name == "mailgun" else call.body.decode()
    written = written.replace("\\u003c", "<").replace("\\/", "/")
    for part in ("A subject", "Ada", "ada@example.com", "reply@example.com", "a text", "<p>HTML", "bill.pdf"):
        assert part in written, part
    assert base64.b64encode(pdf).decode() in written
    assert headers(name, call)["X-Shop"] == "a header"


@pytest.mark.parametrize("body", [{"BodyText": "a text", "BodyHtml": ""}, {"BodyText": "", "BodyHtml": "<p>a text"}])
def test_an_email_with_one_body_has_no_other(
    server: AnymailServer, name: str, new_email: Callable[..., Email], body: dict[str, str]
) -> None:
    anymail_provider(name, server.url).send(new_email(**body))
    (call,) = server.calls
    assert (b"<p>" in call.body or b"%3Cp%3E" in call.body) == bool(body["BodyHtml"])


def test_a_redirected_email_goes_only_to_its_address(
    server: AnymailServer, name: str, new_email: Callable[..., Email]
) -> None:
    anymail_provider(name, server.url).send(
        new_email(RecipientsCc=[CC], RecipientsBcc=[BCC]).redirected("me@example.com")
    )
    (call,) = server.calls
    assert recipients(name, call) == ["me@example.com"]
    assert headers(name, call)["X-Redirected-From"] == f"{TO}, {CC}, {BCC}"


@pytest.mark.parametrize(
    ("content_type", "content"),
    [("text/csv", "naïve\r\n".encode()), ('text/csv; charset="iso-8859-1"', "naïve\n".encode("latin-1"))],
)
def test_a_text_file_keeps_its_bytes(
    server: AnymailServer, new_email: Callable[..., Email], content_type: str, content: bytes
) -> None:
    file = {"name": "a.csv", "content_type": content_type, "body": Binary(content)}
    anymail_provider("postmark", server.url).send(new_email(Attachments=[file]))
    (sent,) = server.calls[0].json["Attachments"]
    assert base64.b64decode(sent["Content"]) == content
    assert sent["ContentType"].startswith(content_type)


def test_a_text_file_that_is_not_in_its_charset_stays_here(
    server: AnymailServer, name: str, new_email: Callable[..., Email]
) -> None:
    for content_type in ("text/csv", "text/csv; charset=utf-8", "text/csv; charset=klingon"):
        file = {"name": "a.csv", "content_type": content_type, "body": Binary("naïve".encode("latin-1"))}
        with pytest.raises(PermanentError, match=r"^Attachments\[0\]: .* takes a text only in its charset"):
            anymail_provider(name, server.url).send(new_email(Attachments=[file]))
    assert server.calls == []


def test_a_calendar_s_method_and_an_image_s_content_id_are_kept(
    server: AnymailServer, new_email: Callable[..., Email]
) -> None:
    invitation = {"name": "i.ics", "content_type": "text/calendar; charset=utf-8; method=REQUEST", "body": Binary(b"a")}
    image = {"name": "ä;.png", "content_type": "image/png", "content_id": "logo@example.com", "body": Binary(b"b")}
    anymail_provider("postmark", server.url).send(new_email(BodyHtml="<p>", Attachments=[invitation, image]))
    assert server.calls[0].json["Attachments"] == [
        {"Name": "i.ics", "Content": "YQ==", "ContentType": 'text/calendar; charset="utf-8"; method="REQUEST"'},
        {"Name": "ä;.png", "Content": "Yg==", "ContentType": "image/png", "ContentID": "cid:logo@example.com"},
    ]


# --- What a service cannot carry

IMAGE = {"name": "a.png", "content_type": "image/png", "content_id": "a@b", "body": Binary(b"a")}
MISNAMED_FILE = {"name": "a.pdf", "content_type": "application/x-odd", "body": Binary(b"a")}
CALENDAR = {"name": "a.ics", "content_type": "text/calendar; method=REQUEST", "body": Binary(b"a")}


@pytest.mark.parametrize(
    ("services", "attributes", "start"),
    [
        ("brevo mailersend mailjet postal unisender_go", {"ReplyTo": ["a@example.com", "b@example.com"]}, "ReplyTo: "),
        ("mailersend postal", {"Tags": {"campaign": "a"}}, "Tags: "),
        ("brevo", {"Tags": {"campaign": "ä"}}, "Tags: "),
        ("brevo", {"Headers": {"X-metadata": "ä"}}, "Headers: "),
        ("brevo", {"Headers": {"x-mailin-Custom": "a"}}, "Headers: "),
        ("resend scaleway", {"Headers": {"x-METADATA": "a"}}, "Headers: "),
        ("brevo postal scaleway", {"BodyHtml": "<p>", "Attachments": [IMAGE]}, "Attachments: "),
        ("brevo mailersend", {"Attachments": [IMAGE, MISNAMED_FILE]}, "Attachments[1]: "),
        ("brevo mailersend mailjet", {"Attachments": [CALENDAR]}, "Attachments[0]: "),
        ("resend", {"Attachments": [MISNAMED_FILE | {"name": "reply_to.pdf"}]}, "Attachments: "),
        ("mailgun scaleway", {"Sender": "ä@example.com"}, "Sender: "),
        ("scaleway", {"RecipientsTo": ["ä@example.com"]}, "RecipientsTo, RecipientsCc or RecipientsBcc: "),
        ("scaleway", {"ReplyTo": ["ä@example.com"]}, "ReplyTo: "),
        ("mailtrap", {"ReplyTo": ["ä@example.com", "b@example.com"]}, "ReplyTo: "),
        (
            "brevo mailersend mailgun mailjet resend sendgrid",
            {"RecipientsTo": [], "RecipientsBcc": [BCC, CC]},
            "RecipientsTo: ",
        ),
        ("postmark", {"EmailId": "x" * 61}, "EmailId: "),
        ("mailersend", {"EmailId": "x" * 144}, "EmailId: "),
    ],
)
def test_what_a_service_cannot_carry_is_named_and_nothing_is_sent(
    server: AnymailServer, new_email: Callable[..., Email], services: str, attributes: dict[str, Any], start: str
) -> None:
    for name in services.split():
        with pytest.raises(PermanentError) as raised:
            anymail_provider(name, server.url).send(new_email(**attributes))
        assert str(raised.value).startswith(f"{start}{SERVICES[name].title} ")
    assert server.calls == []


@pytest.mark.parametrize(("name", "longest"), [("postmark", 60), ("mailersend", 143)])
def test_the_longest_id_is_sent(
    server: AnymailServer, new_email: Callable[..., Email], name: str, longest: int
) -> None:
    anymail_provider(name, server.url).send(new_email(EmailId="x" * longest))


_text = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=20)
_address = st.from_regex(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,9}@example\.com", fullmatch=True)
_mailbox = st.one_of(
    _address,
    st.builds(lambda name, address: f'"{re.sub(chr(92) * 2 + "|" + chr(34), "", name)}" <{address}>', _text, _address),
)
_file = st.fixed_dictionaries(
    {
        "name": _text,
        "content_type": st.sampled_from(["text/plain", "image/png", "application/pdf", "message/rfc822", "a/b; c=d"]),
        "body": st.binary(max_size=9).map(Binary),
    },
    optional={"content_id": st.sampled_from(["a@b", "c@d.example"])},
)


@cache
def _without_a_server(name: str) -> AnymailProvider:
    return anymail_provider(name, "http://127.0.0.1:9")


@hypothesis.settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@given(
    attributes=st.fixed_dictionaries(
        {
            "Subject": _text,
            "Sender": _mailbox,
            "RecipientsTo": st.lists(_mailbox, min_size=1, max_size=3),
            "RecipientsCc": st.lists(_mailbox, max_size=2),
            "RecipientsBcc": st.lists(_mailbox, max_size=2),
            "ReplyTo": st.lists(_mailbox, max_size=1),
            "BodyText": st.text(max_size=20),
            "BodyHtml": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
            "Headers": st.dictionaries(st.from_regex("X-[A-Za-z]{1,9}", fullmatch=True), _text, max_size=2),
            "Tags": st.dictionaries(_text, _text, max_size=2),
            "Attachments": st.lists(_file, max_size=2),
        }
    )
)
def test_whatever_a_row_has_is_a_request_to_its_recipients_or_a_failure(
    new_email: Callable[..., Email], attributes: dict[str, Any]
) -> None:
    try:
        email = new_email(**attributes)
    except InvalidRow:
        hypothesis.reject()
    for name in SERVICES:
        try:
            _, request = _without_a_server(name)._request(email)
        except PermanentError:
            continue
        call = Call(request.path_url, request.headers, body(request))
        wanted = [recipient.addr_spec for recipient in email.recipients]
        assert sorted(recipients(name, call)) == sorted(wanted)


# --- Answers


# What each service documents: its answer, the error, how long to wait, and the reason.
ANSWERS: list[tuple[str, Reply, type[SendError], float | RejectReason]] = [
    ("brevo", Reply(400, {"code": "not_enough_credits", "message": MARK}), TemporaryError, QUARTER_HOUR),
    ("brevo", Reply(401, {"code": "unauthorized", "message": MARK}), TemporaryError, QUARTER_HOUR),
    ("brevo", Reply(402, {"code": "not_enough_credits", "message": MARK}), TemporaryError, QUARTER_HOUR),
    ("brevo", Reply(403, {"code": "permission_denied", "message": MARK}), TemporaryError, QUARTER_HOUR),
    ("brevo", Reply(400, {"code": "missing_parameter", "message": MARK}), PermanentError, RejectReason.INVALID),
    ("brevo", Reply(404, {"code": "document_not_found", "message": MARK}), TemporaryError, QUARTER_HOUR),
    ("mailgun", Reply(400, {"message": MARK}), PermanentError, RejectReason.INVALID),
    ("mailgun", Reply(401, text=f"Forbidden {MARK}"), TemporaryError, QUARTER_HOUR),
    ("mailgun", Reply(402, {"message": MARK}), TemporaryError, QUARTER_HOUR),
    ("mailgun", Reply(403, {"message": MARK}), TemporaryError, QUARTER_HOUR),
    ("mailgun", Reply(404, {"message": f"Domain not found: {MARK}"}), TemporaryError, QUARTER_HOUR),
    ("mailgun", Reply(413, text=MARK), PermanentError, RejectReason.OTHER),
    ("mailgun", Reply(200, text=f"Mailgun Magnificent API {MARK}"), UnknownResultError, 0),
    ("mailgun", Reply(200, {"id": "1", "message": f"{MARK}"}), UnknownResultError, 0),
    ("postmark", Reply(401, {"ErrorCode": 10, "Message": MARK}), TemporaryError, QUARTER_HOUR),
    ("postmark", Reply(503, {"ErrorCode": 100, "Message": MARK}), TemporaryError, 0),
    ("postmark", Reply(503, text=MARK), UnknownResultError, 0),
    ("postmark", Reply(422, {"ErrorCode": 300, "Message": MARK}), PermanentError, RejectReason.INVALID),
    ("postmark", Reply(422, {"ErrorCode": 400, "Message": MARK}), PermanentError, RejectReason.BLOCKED),
    ("postmark", Reply(422, {"ErrorCode": 405, "Message": MARK}), TemporaryError, QUARTER_HOUR),
    ("postmark", Reply(422, {"ErrorCode": 411, "Message": MARK}), PermanentError, RejectReason.OTHER),
    ("postmark", Reply(422, {"ErrorCode": 412, "Message": MARK}), TemporaryError, QUARTER_HOUR),
    ("postmark", Reply(413, {"ErrorCode": 0, "Message": MARK}), PermanentError, RejectReason.OTHER),
    ("postmark", Reply(422, text=MARK), PermanentError, RejectReason.INVALID),
    ("resend", Reply(400, {"name": "validation_error", "message": MARK}), PermanentError, RejectReason.INVALID),
    ("resend", Reply(401, {"name": "missing_api_key", "message": MARK}), TemporaryError, QUARTER_HOUR),
    ("resend", Reply(403, {"name": "invalid_api_key", "message": MARK}), TemporaryError, QUARTER_HOUR),
    ("resend", Reply(403, {"name": "validation_error", "message": MARK}), PermanentError, RejectReason.BLOCKED),
    ("resend", Reply(422, {"name": "missing_required_field", "message": MARK}), PermanentError, RejectReason.INVALID),
    ("resend", Reply(429, {"name": "daily_quota_exceeded", "message": MARK}), TemporaryError, HOUR),
    ("resend", Reply(451, {"name": "security_error", "message": MARK}), PermanentError, RejectReason.BLOCKED),
    ("resend", Reply(500, {"name": "application_error", "message": MARK}), UnknownResultError, 0),
    ("sendgrid", Reply(400, {"errors": [{"field": "subject", "message": MARK}]}), PermanentError, RejectReason.INVALID),
    ("sendgrid", Reply(401, {"errors": [{"field": None, "message": MARK}]}), TemporaryError, QUARTER_HOUR),
    ("sendgrid", Reply(403, {"errors": [{"field": "from", "message": MARK}]}), PermanentError, RejectReason.BLOCKED),
    ("sendgrid", Reply(403, {"errors": [{"field": None, "message": MARK}]}), TemporaryError, QUARTER_HOUR),
    ("sendgrid", Reply(413, {"errors": [{"field": None, "message": MARK}]}), PermanentError, RejectReason.OTHER),
    ("sendgrid", Reply(500, {"errors": [{"field": None, "message": MARK}]}), UnknownResultError, 0),
    # The other services: a refusal each, and what only they do.
    ("mailersend", Reply(422, {"message": MARK, "errors": {}}), PermanentError, RejectReason.INVALID),
    ("mailjet", Reply(400, {"ErrorCode": "mj-0002", "ErrorMessage": MARK}), PermanentError, RejectReason.INVALID),
    (
        "mailjet",
        Reply(403, {"Messages": [{"Status": "error", "Errors": [{"ErrorCode": "send-0008", "ErrorMessage": MARK}]}]}),
        PermanentError,
        RejectReason.BLOCKED,
    ),
    ("mailtrap", Reply(401, {"success": False, "errors": [MARK]}), TemporaryError, QUARTER_HOUR),
    ("mailtrap", Reply(400, {"success": False, "errors": [MARK]}), PermanentError, RejectReason.INVALID),
    ("mandrill", Reply(500, {"status": "error", "name": "Invalid_Key", "message": MARK}), TemporaryError, QUARTER_HOUR),
    (
        "mandrill",
        Reply(500, {"status": "error", "name": "ValidationError", "message": MARK}),
        PermanentError,
        RejectReason.INVALID,
    ),
    ("mandrill", Reply(500, {"status": "error", "name": "GeneralError", "message": MARK}), UnknownResultError, 0),
    (
        "postal",
        Reply(200, {"status": "error", "data": {"code": "UnauthenticatedFromAddress", "message": MARK}}),
        PermanentError,
        RejectReason.BLOCKED,
    ),
    (
        "postal",
        Reply(200, {"status": "error", "data": {"code": "InvalidServerAPIKey", "message": MARK}}),
        TemporaryError,
        QUARTER_HOUR,
    ),
    (
        "postal",
        Reply(200, {"status": "parameter-error", "data": {"message": MARK}}),
        PermanentError,
        RejectReason.INVALID,
    ),
    ("postal", Reply(200, {"status": "error", "data": {"code": "Other", "message": MARK}}), UnknownResultError, 0),
    ("scaleway", Reply(400, {"type": "invalid_arguments", "message": MARK}), PermanentError, RejectReason.INVALID),
    ("scaleway", Reply(403, {"type": "quotas_exceeded", "message": MARK}), TemporaryError, HOUR),
    ("sparkpost", Reply(420, {"errors": [{"message": MARK}]}), TemporaryError, HOUR),
    ("sparkpost", Reply(400, {"errors": [{"code": "7001", "message": MARK}]}), PermanentError, RejectReason.BLOCKED),
    ("sparkpost", Reply(422, {"errors": [{"code": "1300", "message": MARK}]}), PermanentError, RejectReason.INVALID),
    (
        "unisender_go",
        Reply(400, {"status": "error", "code": 150, "message": MARK}),
        PermanentError,
        RejectReason.INVALID,
    ),
    ("unisender_go", Reply(403, {"status": "error", "code": 102, "message": MARK}), TemporaryError, QUARTER_HOUR),
]


@pytest.mark.parametrize(("name", "reply", "kind", "detail"), ANSWERS)
def test_an_answer_means_what_the_service_documents(  # noqa: PLR0913, PLR0917 (parameters and fixtures)
    server: AnymailServer,
    new_email: Callable[..., Email],
    caplog: pytest.LogCaptureFixture,
    name: str,
    reply: Reply,
    kind: type[SendError],
    detail: float | RejectReason,
) -> None:
    error = _refused(server, name, new_email(), reply)
    assert type(error) is kind
    if isinstance(error, TemporaryError):
        assert error.retry_after == detail
    if isinstance(error, PermanentError):
        assert error.reject_reason == detail
        (whole,) = error.refused
        assert (whole.address, whole.reason) == ("", detail)
        assert MARK in whole.response  # the history has the service's words
    assert MARK not in f"{error} {error!r} {caplog.text}"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, TemporaryError) for status in (301, 302, 307, 308, 401, 402, 403, 404, 408, 409, 418, 425, 429)),
        *((status, PermanentError) for status in (400, 413, 415, 422)),
        *((status, UnknownResultError) for status in (204, 300, 303, 304, 500, 502, 503, 504)),
    ],
)
def test_a_status_without_a_word_of_explanation(
    server: AnymailServer, new_email: Callable[..., Email], status: int, kind: type[SendError]
) -> None:
    error = _refused(server, "resend", new_email(), Reply(status, headers=(("Location", server.url),)))
    assert type(error) is kind
    assert str(status) in str(error) or status == 204


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"mailersend", "sendgrid"}))  # they say nothing in the body
def test_an_acceptance_that_is_not_understood_is_unknown(
    server: AnymailServer, name: str, new_email: Callable[..., Email]
) -> None:
    provider = anymail_provider(name, server.url)
    for text in ("null", "[]", "{}", '"a"', "{", "[" * 100_000, "\0", "<html>", '{"Message": 1}'):
        server.reply = Reply(200, text=text)
        with pytest.raises(UnknownResultError):
            provider.send(new_email())


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("7", 7),
        ("0", 1),
        ("-5", 1),
        ("soon", 1),
        ("", 1),
        ("999999", 86_400),
        ("1" * 5000, 1),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ("Fri, 27 Nov 2026 17:00:00", 1),
    ],
)
def test_a_throttled_email_waits_as_long_as_the_service_wants(
    server: AnymailServer, new_email: Callable[..., Email], given: str, seconds: float
) -> None:
    error = _refused(server, "brevo", new_email(), Reply(429, {}, (("Retry-After", given),)))
    assert isinstance(error, TemporaryError)
    assert error.retry_after == seconds


def test_a_throttled_email_waits_until_the_time_that_the_service_names(
    server: AnymailServer, new_email: Callable[..., Email]
) -> None:
    given = format_datetime(datetime.now(UTC) + timedelta(seconds=1000), usegmt=True)
    error = _refused(server, "brevo", new_email(), Reply(429, {}, (("Retry-After", given),)))
    assert isinstance(error, TemporaryError)
    assert 900 < error.retry_after <= 1000


INACTIVE = (
    f"Message OK, but will not deliver to these inactive addresses: {CC}. "
    "Inactive recipients are ones that have generated a hard bounce or a spam complaint."
)
MIXED = {
    "postmark": Reply(200, {"ErrorCode": 0, "Message": INACTIVE, "MessageID": "1", "To": TO}),
    "mailersend": Reply(
        202,
        {"warnings": [{"type": "SOME_SUPPRESSED", "recipients": [{"email": CC, "reasons": ["blocklisted"]}]}]},
        (("X-Message-Id", "1"),),
    ),
    "mandrill": Reply(
        200, [{"email": TO, "status": "queued", "_id": "1"}, {"email": CC.upper(), "status": "rejected", "_id": "2"}]
    ),
    "unisender_go": Reply(
        200, {"status": "success", "job_id": "1", "emails": [TO], "failed_emails": {CC: "unsubscribed"}}
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_refused_recipient_is_named_and_the_others_get_the_email(
    server: AnymailServer, new_email: Callable[..., Email], name: str
) -> None:
    server.reply = MIXED[name]
    receipt = anymail_provider(name, server.url).send(new_email(RecipientsCc=[CC]))
    assert [(refused.address, refused.reason) for refused in receipt.refused] == [(CC, RejectReason.BLOCKED)]
    assert MARK not in f"{receipt!r} {receipt.response}"


@pytest.mark.parametrize(
    ("name", "reply", "reason"),
    [
        (
            "postmark",
            Reply(
                422,
                {
                    "ErrorCode": 406,
                    "Message": "You tried to send to a recipient that has been marked as inactive. Found inactive "
                    f"addresses: {TO}. Inactive recipients are ones that have generated a hard bounce.",
                },
            ),
            RejectReason.BLOCKED,
        ),
        ("postmark", Reply(422, {"ErrorCode": 300, "Message": f"Invalid 'To' address: '{TO}'."}), RejectReason.INVALID),
        ("mandrill", Reply(200, [{"email": TO, "status": "invalid"}]), RejectReason.INVALID),
        (
            "mailersend",
            Reply(202, {"warnings": [{"type": "ALL_SUPPRESSED", "recipients": [{"email": TO}]}]}),
            RejectReason.BLOCKED,
        ),
        (
            "unisender_go",
            Reply(200, {"status": "success", "emails": [], "failed_emails": {TO: "temporary_unavailable"}}),
            RejectReason.OTHER,
        ),
        (
            "sparkpost",
            Reply(200, {"results": {"total_rejected_recipients": 1, "total_accepted_recipients": 0, "id": "1"}}),
            RejectReason.BLOCKED,
        ),
    ],
)
def test_an_email_whose_recipients_are_all_refused_failed(
    server: AnymailServer, new_email: Callable[..., Email], name: str, reply: Reply, reason: RejectReason
) -> None:
    error = _refused(server, name, new_email(), reply)
    assert isinstance(error, PermanentError)
    assert [(refused.address, refused.reason) for refused in error.refused] == [(TO, reason)]
    assert MARK not in f"{error} {error!r}"


def test_a_service_that_does_not_say_whom_it_accepted_is_unknown(
    server: AnymailServer, new_email: Callable[..., Email]
) -> None:
    some = {"results": {"total_rejected_recipients": 1, "total_accepted_recipients": 1, "id": "1"}}
    error = _refused(server, "sparkpost", new_email(RecipientsCc=[CC]), Reply(200, some))
    assert type(error) is UnknownResultError


def test_the_service_s_words_are_only_in_the_history(  # noqa: PLR0913, PLR0917 (fixtures)
    server: AnymailServer,
    store: EmailStore,
    events: EventStore,
    settings: Settings,
    row: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    server.reply = Reply(422, {"name": "validation_error", "message": f"{MARK} is not valid"})
    store.put(row)
    sender = Sender(store, {"resend": anymail_provider("resend", server.url)}, settings.model_copy(update=VIA_RESEND))
    assert str(sender.send(row["EmailId"])) == "Failed: Resend found the request invalid (422)"
    failed = store.get(row["EmailId"]) or {}
    assert failed["FailureReason"] == "Resend found the request invalid (422)"
    assert MARK not in f"{failed} {caplog.text}"
    (event,) = events.of(row["EmailId"])
    assert (event["EventType"], event["RejectReason"]) == ("rejected", "invalid")
    assert MARK in event["Diagnostic"]


# --- Settings


@pytest.fixture
def chosen(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the variables that are set for the chosen service."""
    variables = environment(name)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    return variables


def test_each_missing_setting_is_one_line(name: str, chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen.pop("EMAIL_MAILGUN_SENDER_DOMAIN", "")  # it has a default
    assert list(load_providers(Settings(provider=name))) == [name]
    for variable in chosen:
        monkeypatch.delenv(variable)
    with pytest.raises(SettingsError) as raised:
        load_providers(Settings(provider=name))
    lines = str(raised.value).splitlines()
    assert sorted(line.partition(": is missing; should be ")[0] for line in lines) == sorted(chosen)


def test_a_secret_is_in_no_text(name: str, chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    model = SERVICES[name].settings
    secret = f"{MARK}-key"
    variables = [variable for variable in chosen if variable.endswith(("KEY", "TOKEN"))]
    for variable in variables:
        monkeypatch.setenv(variable, secret)
    settings = model.read()
    assert secret not in f"{settings} {settings!r} {settings.model_dump_json()}"
    for variable in variables:
        monkeypatch.setenv(variable, f"{secret}\n2")
    with pytest.raises(SettingsError) as raised:
        load_providers(Settings(provider=name))
    assert MARK not in str(raised.value)
    assert str(raised.value).count("should be ASCII without spaces") == len(variables)


def test_the_address_of_an_api_has_no_password(
    name: str, chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"EMAIL_{name.upper()}_API_URL", f"https://user:{MARK}@example.com")
    with pytest.raises(SettingsError, match="should have no user name or password") as raised:
        load_providers(Settings(provider=name))
    assert MARK not in str(raised.value)


def test_a_key_is_not_sent_in_clear_text_over_a_network(
    name: str, chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variable = f"EMAIL_{name.upper()}_API_URL"
    monkeypatch.setenv(variable, "http://api.example.com")
    with pytest.raises(SettingsError, match=f"^{variable}: is 'http://api.example.com'; should begin with https"):
        load_providers(Settings(provider=name))
    for url in ("http://localhost:8080/a", "http://127.0.0.1", "http://[::1]:80", "https://api.example.com"):
        monkeypatch.setenv(variable, url)
        load_providers(Settings(provider=name))


def test_the_settings_of_a_service_are_known_even_if_it_is_not_used(chosen: dict[str, str]) -> None:
    assert list(unknown_variables()) == []


def test_without_the_extra_the_start_prints_the_command_that_installs_it(
    name: str, chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] in ("anymail", "django")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "emails.providers.anymail", raising=False)
    monkeypatch.delitem(sys.modules, "emails.django_settings", raising=False)
    monkeypatch.setitem(sys.modules, "django", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "anymail", None)
    with pytest.raises(SettingsError) as raised:
        load_providers(Settings(provider=name))
    assert name in str(raised.value)
    assert str(raised.value).endswith(INSTALL)


def test_nothing_of_the_extra_is_imported_unless_a_service_is_chosen() -> None:
    program = (
        "import sys; from emails.providers import load_providers, unknown_variables; from settings import Settings;"
        "load_providers(Settings()); list(unknown_variables());"
        "print({'anymail', 'django', 'requests'} & sys.modules.keys())"
    )
    environ = {"EMAIL_UNKNOWN": "1", "PATH": ""}
    ran = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


def test_options_that_anymail_reads_reach_it(server: AnymailServer, new_email: Callable[..., Email]) -> None:
    for name, options in {
        "postmark": {"message_stream": "bulk"},
        "mailtrap": {"sandbox_id": "12"},
        "sparkpost": {"subaccount": "34"},
    }.items():
        service = SERVICES[name]
        own = {f"{name}_{option}": value for option, value in (REQUIRED[name] | options).items()}
        own[f"{name}_api_url"] = f"{server.url}/{name}"
        server.reply = Reply(200, {"success": True, "message_ids": ["1"]}) if name == "mailtrap" else None
        AnymailProvider(service, Settings(), service.settings(**own)).send(new_email())
    postmark, mailtrap, sparkpost = server.calls
    assert postmark.json["MessageStream"] == "bulk"
    assert mailtrap.path.endswith("/12")
    assert sparkpost.headers["X-MSYS-SUBACCOUNT"] == "34"
