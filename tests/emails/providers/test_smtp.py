"""SMTP, with a server on real sockets that fails in every way."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiosmtpd.smtp import AuthResult
from boto3.dynamodb.types import Binary

from emails.email import Email
from emails.events import RejectReason
from emails.mime import message_id, to_mime
from emails.providers import smtp_sessions
from emails.providers.contract import PermanentError, TemporaryError, UnknownResultError
from emails.providers.smtp import SmtpProvider
from emails.providers.smtp_replies import Reply
from emails.providers.smtp_settings import SmtpSettings
from settings import Settings, SettingsError
from tests.support.smtp_server import SmtpServer, drip, drop, hang, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMEOUT = 0.2  # for sends that would never end otherwise
LONGER = 1  # for sends that must reach a certain step before it, even on a busy machine
SLACK = 5  # for a busy machine; without a time-out a send would last until the test's own
BEFORE_MAIL = ["greeting", "EHLO", "STARTTLS", "AUTH"]
BEFORE_THE_DOT = [*BEFORE_MAIL, "MAIL", "RCPT", "DATA", "content"]
SECRET = "open sesame"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the authority in the way that a deployment names its own."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


def certified(authority: trustme.CA, *names: str, **options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **options).configure_cert(context)
    return context


@pytest.fixture
def serve() -> Iterator[Callable[..., SmtpServer]]:
    contexts = []

    def serve(*arguments: Any, **options: Any) -> SmtpServer:
        contexts.append(running(SmtpServer(*arguments, **options)))
        return contexts[-1].__enter__()

    yield serve
    for context in contexts:
        context.__exit__(None, None, None)


@pytest.fixture
def server(serve: Callable[..., SmtpServer]) -> SmtpServer:
    """Return a server without TLS."""
    return serve()


@pytest.fixture
def secure(serve: Callable[..., SmtpServer], authority: trustme.CA, trusted: None) -> SmtpServer:
    """Return a server that requires STARTTLS and has a certificate for `localhost`."""
    return serve(certified(authority, "localhost"), require_starttls=True)


@pytest.fixture
def provide() -> Iterator[Callable[..., SmtpProvider]]:
    providers = []

    def provide(server: SmtpServer, timeout: float = 10, **settings: Any) -> SmtpProvider:
        own = {name: settings.pop(name) for name in list(settings) if name in SmtpSettings.model_fields}
        own = {"smtp_host": "127.0.0.1", "smtp_port": server.port, "smtp_security": "none"} | own
        # This is shorter than the setting allows.
        told = Settings(**settings).model_copy(update={"provider_timeout": timeout})
        providers.append(SmtpProvider(told, SmtpSettings(**own)))
        return providers[-1]

    yield provide
    for provider in providers:
        provider.close()


LOGS_IN = {"smtp_host": "localhost", "smtp_security": "starttls", "smtp_username": "shop", "smtp_password": SECRET}


@pytest.fixture
def over_tls(secure: SmtpServer, provide: Callable[..., SmtpProvider]) -> SmtpProvider:
    return provide(secure, **LOGS_IN)


@pytest.fixture
def email(row: dict[str, Any]) -> Email:
    return Email.from_row(row)


@pytest.fixture
def to_three(row: dict[str, Any]) -> Email:
    recipients = {"RecipientsTo": ["ada@example.com"], "RecipientsCc": ["bob@example.com"]}
    return Email.from_row(row | recipients | {"RecipientsBcc": ["eve@example.com"], "Attempts": 1})


# What is sent


def test_the_envelope_has_each_recipient_once_and_the_message_those_in_sight(
    server: SmtpServer, provide: Callable[..., SmtpProvider], row: dict[str, Any]
) -> None:
    email = Email.from_row(
        row | {"RecipientsCc": ["ada@example.com", "bob@example.com"], "RecipientsBcc": ["eve@example.com"]}
    )
    receipt = provide(server).send(email)
    (message,) = server.messages
    assert message.sender == "shop@example.com"
    assert message.recipients == ["ada@example.com", "bob@example.com", "eve@example.com"]
    assert b"eve" not in message.content
    assert (receipt.provider, receipt.message_id, receipt.refused) == ("smtp", message_id(email), ())
    assert receipt.response == "250 2.0.0, queued as 4XyZ"


def test_a_redirected_email_has_one_recipient_and_keeps_its_headers(
    server: SmtpServer, provide: Callable[..., SmtpProvider], to_three: Email
) -> None:
    provide(server).send(to_three.redirected("me@example.com"))
    (message,) = server.messages
    assert message.recipients == ["me@example.com"]
    assert b"To: ada@example.com\r\nCc: bob@example.com\r\n" in message.content
    assert b"X-Redirected-From: ada@example.com, bob@example.com, eve@example.com\r\n" in message.content


@pytest.mark.parametrize("text", [".", ".\n.\n", "..two\n.\r\n", "a\r.\rb", "\n.\nMAIL FROM:<x@example.com>\n.\n\n.\n"])
def test_dots_arrive_as_they_were_and_end_nothing(
    server: SmtpServer, provide: Callable[..., SmtpProvider], row: dict[str, Any], text: str
) -> None:
    email = Email.from_row(row | {"BodyText": text})
    provide(server).send(email)
    (message,) = server.messages
    _, _, body = message.content.partition(b"\r\n\r\n")
    assert body == to_mime(email).partition(b"\r\n\r\n")[2]
    assert server.seen["MAIL"] == 1


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("250 2.6.0 <ada@example.com> queued", "250 2.6.0"),
        ("250 2.0.0 Hello from the shop: accepted", "250 2.0.0"),
        ("250 ada: queued as <4XyZ> Hello", "250"),
        ("250 2.0.0 Ok: queued as 4XyZ", "250 2.0.0, queued as 4XyZ"),
        ("250 OK id=1tQx8P-0003Kd-2A", "250, queued as 1tQx8P-0003Kd-2A"),
        (
            "250 Ok 0102018c3f2a5b6d-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f-000000",
            "250, queued as 0102018c3f2a5b6d-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f-000000",
        ),
        ("250 Ok Hello", "250"),
    ],
)
def test_of_the_server_s_words_the_receipt_keeps_codes_and_its_id_alone(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, reply: str, kept: str
) -> None:
    server.fates["dot"] = reply
    assert provide(server).send(email).response == kept


def test_an_address_beyond_ascii_goes_by_smtputf8(
    server: SmtpServer, provide: Callable[..., SmtpProvider], row: dict[str, Any]
) -> None:
    provider = provide(server)
    provider.send(Email.from_row(row | {"RecipientsTo": ["adé@exämple.com"]}))
    provider.send(Email.from_row(row | {"RecipientsTo": ["ada@exämple.com"]}))
    beyond, within = server.messages
    assert beyond.recipients == ["adé@xn--exmple-cua.com"]
    assert "\r\nTo: adé@xn--exmple-cua.com\r\n".encode() in beyond.content
    assert "SMTPUTF8" in beyond.parameters
    assert "SMTPUTF8" not in within.parameters, "an IDNA domain is ASCII"


def test_a_server_without_smtputf8_is_given_no_address_beyond_ascii(
    serve: Callable[..., SmtpServer], provide: Callable[..., SmtpProvider], row: dict[str, Any]
) -> None:
    server = serve(smtputf8=False)
    with pytest.raises(PermanentError, match="SMTPUTF8"):
        provide(server).send(Email.from_row(row | {"RecipientsBcc": ["adé@example.com"]}))
    assert server.seen["MAIL"] == 0


def test_a_message_larger_than_the_server_says_is_not_sent(
    serve: Callable[..., SmtpServer], provide: Callable[..., SmtpProvider], row: dict[str, Any]
) -> None:
    server = serve(data_size_limit=2000)
    provider = provide(server)
    email = Email.from_row(row)
    provider.send(email)
    assert f"SIZE={len(to_mime(email))}" in server.messages[0].parameters
    with pytest.raises(PermanentError, match=r"has \d+ bytes; the SMTP server accepts at most 2000"):
        provider.send(Email.from_row(row | {"BodyText": "long\n" * 1000}))
    assert server.seen["MAIL"] == 1


# Replies


@pytest.mark.parametrize("step", BEFORE_MAIL)
@pytest.mark.parametrize("code", ["421", "454", "554"])
def test_a_server_that_lets_nobody_in_is_no_email_s_fault(
    secure: SmtpServer, over_tls: SmtpProvider, email: Email, step: str, code: str
) -> None:
    secure.fates[step] = f"{code} 4.3.0 not you, shop@example.com"
    with pytest.raises(TemporaryError, match=code) as raised:
        over_tls.send(email)
    assert "shop" not in str(raised.value)
    secure.fates.clear()
    over_tls.send(email)


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "dot"])
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ("421 4.3.2 shutting down", TemporaryError),
        ("450 4.2.1 busy", TemporaryError),
        ("530 5.7.0 who are you", TemporaryError),
        ("550 5.7.1 no ada@example.com here", PermanentError),
        ("554 no", PermanentError),
    ],
)
def test_a_reply_to_a_transaction_s_step_is_the_answer(  # noqa: PLR0913 (the table's columns)
    server: SmtpServer,
    provide: Callable[..., SmtpProvider],
    email: Email,
    *,
    step: str,
    reply: str,
    error: type[Exception],
) -> None:
    server.fates[step] = reply
    provider = provide(server)
    with pytest.raises(error, match=" ".join(reply.split()[:2]) if "." in reply else "554") as raised:
        provider.send(email)
    assert "ada" not in str(raised.value)
    server.fates.clear()
    provider.send(email)
    assert [message.recipients for message in server.messages] == [["ada@example.com"]]


def test_a_server_that_says_it_closes_is_asked_nothing_more(
    server: SmtpServer, provide: Callable[..., SmtpProvider], to_three: Email
) -> None:
    async def close_later(conversation: Any) -> None:
        conversation._writer.write(b"421 4.3.2 shutting down\r\n")

    server.fates["bob@example.com"] = close_later
    provider = provide(server, max_attempts=1)
    with pytest.raises(TemporaryError, match="closed the connection: 421"):
        provider.send(to_three)
    server.fates.clear()
    provider.send(to_three)
    assert (server.seen["greeting"], server.seen["RSET"], len(server.messages)) == (2, 0, 1)


def test_a_refused_transaction_ends_and_its_connection_goes_on(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    provider = provide(server)
    server.fates["DATA"] = "451 later"
    with pytest.raises(TemporaryError):
        provider.send(email)
    server.fates.clear()
    provider.send(email)
    assert (server.seen["EHLO"], server.seen["RSET"]) == (1, 1)


@pytest.mark.parametrize(
    ("setting", "host_name", "said"),
    [
        ("", "mail.example.com", "mail.example.com"),
        ("", "f3a9c1", "[127.0.0.1]"),
        ("shop.example.com", "mail.example.com", "shop.example.com"),
        ("shop.example.com", "f3a9c1", "shop.example.com"),
    ],
)
def test_the_server_is_told_the_name_that_is_set_or_the_machine_s(  # noqa: PLR0913, PLR0917 (the table's columns)
    secure: SmtpServer,
    provide: Callable[..., SmtpProvider],
    email: Email,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    setting: str,
    host_name: str,
    said: str,
) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda: host_name)
    monkeypatch.setattr(socket, "gethostbyname", lambda _: "127.0.0.1")
    provide(secure, **LOGS_IN, smtp_ehlo_name=setting).send(email)
    assert secure.ehlo_names == [said, said], "before STARTTLS and after it"
    assert ("set EMAIL_SMTP_EHLO_NAME" in caplog.text) == (said == "[127.0.0.1]")


def test_a_server_that_refuses_the_name_is_told_by_the_setting_that_changes_it(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    server.fates["EHLO"] = "421 4.7.0 Try again later, closing connection. (EHLO)"
    with pytest.raises(TemporaryError, match=r"answered EHLO \(EMAIL_SMTP_EHLO_NAME\) with 421 4\.7\.0"):
        provide(server).send(email)


@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "DATA"])
def test_what_is_no_reply_is_temporary_before_the_dot(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, step: str
) -> None:
    server.fates[step] = "hello"
    with pytest.raises(TemporaryError):
        provide(server).send(email)


@pytest.mark.parametrize("reply", ["hello", "354 more", "120 wait"])
def test_what_is_neither_yes_nor_no_after_the_dot_tells_nothing(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, reply: str
) -> None:
    server.fates["dot"] = reply
    with pytest.raises(UnknownResultError):
        provide(server).send(email)


@pytest.mark.parametrize(
    ("reply", "reason", "text"),
    [
        (Reply(550, "5.1.1 <a@b> unknown"), RejectReason.BOUNCED, "550 5.1.1, no such mailbox"),
        (Reply(550, "5.1.10 null MX"), RejectReason.BOUNCED, "550 5.1.10, domain does not accept mail"),
        (Reply(550, "5.1.99 what"), RejectReason.BOUNCED, "550 5.1.99, address rejected"),
        (Reply(550, "5.1.3 syntax"), RejectReason.INVALID, "550 5.1.3, bad address"),
        (Reply(552, "5.2.2 full"), RejectReason.BOUNCED, "552 5.2.2, mailbox full"),
        (Reply(552, "5.3.4 big"), RejectReason.OTHER, "552 5.3.4, too large for the server"),
        (Reply(550, "5.4.7 expired"), RejectReason.TIMED_OUT, "550 5.4.7, delivery took too long"),
        (Reply(550, "5.7.1 no"), RejectReason.BLOCKED, "550 5.7.1, rejected by policy"),
        (Reply(550, "5.7.28 flood"), RejectReason.SPAM, "550 5.7.28, mail flood detected"),
        (Reply(550, "no such user"), RejectReason.BOUNCED, "550, mailbox unavailable"),
        (Reply(554, "no"), RejectReason.OTHER, "554, transaction failed"),
        (Reply(599, "5.9.9 what"), RejectReason.OTHER, "599 5.9.9"),
        (Reply(550, "5.1.1.1 is no enhanced code"), RejectReason.BOUNCED, "550, mailbox unavailable"),
    ],
    ids=str,
)
def test_a_reply_is_told_in_our_own_words(reply: Reply, reason: RejectReason, text: str) -> None:
    assert reply.reject_reason == reason
    assert str(reply) == text
    assert str(reply.error("it")) == f"the SMTP server rejected it: {text}"
    assert "unknown" not in repr(reply)


# Some of the recipients


def test_the_others_get_what_one_recipient_s_server_refuses(
    server: SmtpServer, provide: Callable[..., SmtpProvider], to_three: Email
) -> None:
    server.fates["bob@example.com"] = "550 5.1.1 <bob@example.com> unknown"
    receipt = provide(server).send(to_three)
    assert server.messages[0].recipients == ["ada@example.com", "eve@example.com"]
    (refused,) = receipt.refused
    assert (refused.address, refused.reason) == ("bob@example.com", RejectReason.BOUNCED)
    assert refused.response == "550 5.1.1 <bob@example.com> unknown"
    assert "bob" not in repr(receipt)


def test_nobody_gets_what_every_recipient_is_refused(
    server: SmtpServer, provide: Callable[..., SmtpProvider], to_three: Email
) -> None:
    server.fates["RCPT"] = "550 5.7.1 no"
    with pytest.raises(PermanentError, match=r"every recipient: 550 5\.7\.1") as raised:
        provide(server).send(to_three)
    assert raised.value.reject_reason == RejectReason.BLOCKED
    assert [refused.address.partition("@")[0] for refused in raised.value.refused] == ["ada", "bob", "eve"]


def test_nobody_gets_it_while_one_recipient_is_deferred_so_that_nobody_gets_it_twice(
    server: SmtpServer, provide: Callable[..., SmtpProvider], to_three: Email
) -> None:
    server.fates |= {"bob@example.com": "452 4.5.3 too many", "eve@example.com": "550 5.1.1 unknown"}
    with pytest.raises(TemporaryError, match=r"1 of 3 recipients for now: 452 4\.5\.3, too many recipients"):
        provide(server).send(to_three)
    assert server.seen["DATA"] == 0


def test_the_others_get_it_at_the_last_attempt(
    server: SmtpServer, provide: Callable[..., SmtpProvider], to_three: Email
) -> None:
    server.fates |= {"bob@example.com": "450 4.2.1 busy", "eve@example.com": "550 5.1.1 unknown"}
    receipt = provide(server, max_attempts=1).send(to_three)
    assert server.messages[0].recipients == ["ada@example.com"]
    assert {refused.address: refused.reason for refused in receipt.refused} == {
        "bob@example.com": RejectReason.TIMED_OUT,
        "eve@example.com": RejectReason.BOUNCED,
    }


def test_the_last_attempt_fails_where_nobody_is_left_to_get_it(
    server: SmtpServer, provide: Callable[..., SmtpProvider], to_three: Email
) -> None:
    server.fates |= {"RCPT": "450 4.2.1 busy", "eve@example.com": "550 5.1.1 unknown"}
    with pytest.raises(TemporaryError, match="2 of 3"):
        provide(server, max_attempts=1).send(to_three)


# Connections that are lost


def large(row: dict[str, Any]) -> Email:
    """Return an email larger than the sockets' buffers, so the final dot cannot be sent until the server reads."""
    file = {"name": "file", "content_type": "application/pdf", "body": Binary(bytes(12_000_000))}
    return Email.from_row(row | {"Attachments": [file]})


@pytest.mark.parametrize("step", BEFORE_THE_DOT)
def test_a_connection_lost_before_the_last_dot_is_temporary(
    secure: SmtpServer, over_tls: SmtpProvider, row: dict[str, Any], step: str
) -> None:
    secure.fates[step] = drop
    email = large(row) if step == "content" else Email.from_row(row)
    with pytest.raises(TemporaryError, match=r"no connection to the SMTP server: (?!no answer in time)"):
        over_tls.send(email)
    assert not secure.messages
    secure.fates.clear()
    over_tls.send(Email.from_row(row))


@pytest.mark.parametrize("step", BEFORE_THE_DOT)
def test_a_server_that_hangs_before_the_last_dot_holds_nobody_for_longer_than_a_send_may_take(
    secure: SmtpServer, provide: Callable[..., SmtpProvider], row: dict[str, Any], step: str
) -> None:
    secure.fates[step] = hang
    provider = provide(secure, timeout=LONGER if step == "content" else TIMEOUT, **LOGS_IN)
    email = large(row) if step == "content" else Email.from_row(row)
    started = time.monotonic()
    with pytest.raises(TemporaryError, match="no connection to the SMTP server: no answer in time"):
        provider.send(email)
    assert time.monotonic() - started < provider.longest_send + SLACK


@pytest.mark.parametrize("fate", [drop, hang, drip])
def test_a_connection_lost_after_the_last_dot_tells_nothing(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, fate: Callable[..., Any]
) -> None:
    server.fates["dot"] = fate
    provider = provide(server, timeout=LONGER)
    with pytest.raises(UnknownResultError, match="no answer to the final dot: ") as raised:
        provider.send(email)
    assert ("no answer in time" in str(raised.value)) == (fate != drop)
    assert len(server.messages) == 1, "it was accepted, and sent once"


def test_a_server_that_answers_byte_by_byte_holds_nobody_longer(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    server.fates["MAIL"] = drip
    started = time.monotonic()
    with pytest.raises(TemporaryError, match="no answer in time"):
        provide(server, timeout=TIMEOUT).send(email)
    assert time.monotonic() - started < TIMEOUT + SLACK


def test_nobody_listening_is_temporary(server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email) -> None:
    for host, text in (("127.0.0.1", "refused"), ("nowhere.invalid", "")):
        with pytest.raises(TemporaryError, match=f"no connection to the SMTP server: .*{text}"):
            provide(server, smtp_host=host, smtp_port=9).send(email)


def test_the_next_of_a_host_s_addresses_is_tried_where_one_refuses(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [*socket.getaddrinfo("127.0.0.1", 9, type=socket.SOCK_STREAM)]
    addresses += socket.getaddrinfo("127.0.0.1", server.port, type=socket.SOCK_STREAM)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    provide(server, smtp_host="mx.example.com").send(email)
    addresses.reverse()
    provide(server, smtp_host="mx.example.com").send(email)
    assert len(server.messages) == 2


# TLS and credentials


@pytest.mark.parametrize("implicit", [True, False], ids=["tls", "starttls"])
def test_the_whole_conversation_is_by_tls(  # noqa: PLR0913 (the table's columns)
    serve: Callable[..., SmtpServer],
    provide: Callable[..., SmtpProvider],
    authority: trustme.CA,
    trusted: None,
    email: Email,
    *,
    implicit: bool,
) -> None:
    server = serve(certified(authority, "localhost"), implicit_tls=implicit, require_starttls=not implicit)
    security = "tls" if implicit else "starttls"
    provider = provide(server, smtp_host="localhost", smtp_security=security, smtp_username="shöp", smtp_password="pä")
    provider.send(email)
    assert len(server.messages) == 1
    assert server.logins == [("PLAIN", "shöp".encode(), "pä".encode())]


EXPIRED = {"not_before": datetime(2000, 1, 1, tzinfo=UTC), "not_after": datetime(2000, 1, 2, tzinfo=UTC)}


@pytest.mark.parametrize("implicit", [True, False], ids=["tls", "starttls"])
@pytest.mark.parametrize(
    ("host", "name", "options", "text"),
    [
        ("localhost", "mx.example.com", {}, "Hostname mismatch"),
        ("127.0.0.1", "localhost", {}, "IP address mismatch"),
        ("localhost", "localhost", EXPIRED, "certificate has expired"),
    ],
)
def test_a_certificate_that_does_not_hold_gets_nothing(  # noqa: PLR0913 (the table's columns)
    serve: Callable[..., SmtpServer],
    provide: Callable[..., SmtpProvider],
    authority: trustme.CA,
    trusted: None,
    email: Email,
    *,
    host: str,
    name: str,
    options: dict[str, Any],
    text: str,
    implicit: bool,
) -> None:
    server = serve(certified(authority, name, **options), implicit_tls=implicit)
    provider = provide(server, smtp_host=host, smtp_security="tls" if implicit else "starttls")
    with pytest.raises(TemporaryError, match=f"its certificate is not valid: {text}"):
        provider.send(email)
    assert server.seen["MAIL"] == 0


def test_an_authority_that_nobody_trusts_gets_nothing(
    serve: Callable[..., SmtpServer], provide: Callable[..., SmtpProvider], authority: trustme.CA, email: Email
) -> None:
    server = serve(certified(authority, "localhost"))
    with pytest.raises(TemporaryError, match="its certificate is not valid: "):
        provide(server, smtp_host="localhost", smtp_security="starttls").send(email)


def test_tls_older_than_1_2_is_refused(
    serve: Callable[..., SmtpServer],
    provide: Callable[..., SmtpProvider],
    authority: trustme.CA,
    trusted: None,
    email: Email,
) -> None:
    context = certified(authority, "localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLS"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(TemporaryError, match="no connection"):
        provide(serve(context), smtp_host="localhost", smtp_security="starttls").send(email)


def test_nothing_is_sent_in_clear_text_where_starttls_is_not_offered(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    with pytest.raises(TemporaryError, match="does not offer STARTTLS"):
        provide(server, **LOGS_IN).send(email)
    assert (server.seen["AUTH"], server.seen["MAIL"]) == (0, 0)


def test_what_somebody_says_in_clear_text_before_tls_is_not_heard(
    secure: SmtpServer, over_tls: SmtpProvider, email: Email
) -> None:
    secure.injected = "\r\n250-mx.test\r\n250 AUTH"  # the injection of CVE-2011-0411
    over_tls.send(email)
    assert (len(secure.logins), len(secure.messages)) == (1, 1)


def test_a_server_that_knows_login_alone_is_logged_in_at_by_that(
    serve: Callable[..., SmtpServer],
    provide: Callable[..., SmtpProvider],
    authority: trustme.CA,
    trusted: None,
    email: Email,
) -> None:
    server = serve(certified(authority, "localhost"), auth_exclude_mechanism=["PLAIN"])
    provider = provide(server, **LOGS_IN)
    provider.send(email)
    assert server.logins == [("LOGIN", b"shop", SECRET.encode())]


def test_wrong_credentials_are_tried_once_and_shown_nowhere(
    serve: Callable[..., SmtpServer],
    provide: Callable[..., SmtpProvider],
    authority: trustme.CA,
    trusted: None,
    email: Email,
) -> None:
    def refuse(*_: object) -> AuthResult:
        return AuthResult(success=False, handled=False, message="535 5.7.8 wrong: open sesame")

    server = serve(certified(authority, "localhost"), authenticator=refuse)
    provider = provide(server, **LOGS_IN)
    with pytest.raises(TemporaryError, match=r"credentials \(EMAIL_SMTP_USERNAME\) with 535 5\.7\.8") as raised:
        provider.send(email)
    assert server.seen["AUTH"] == 1
    assert SECRET not in f"{raised.value!r} {provider!r} {vars(provider)!r}"


def test_settings_that_are_not_whole_say_which_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"EMAIL_SMTP_HOST": "mx.example.com", "EMAIL_SMTP_USERNAME": "shop", "EMAIL_SMTP_PASSWORD": SECRET}
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    SmtpProvider.from_settings(Settings())
    for missing, value in whole.items():
        monkeypatch.delenv(missing)
        with pytest.raises(SettingsError, match=f"{missing}: is missing"):
            SmtpProvider.from_settings(Settings())
        monkeypatch.setenv(missing, value)


# Connections that are kept


def test_emails_share_a_connection_one_after_the_other(
    secure: SmtpServer, over_tls: SmtpProvider, email: Email
) -> None:
    for _ in range(5):
        over_tls.send(email)
    assert (secure.seen["greeting"], secure.seen["AUTH"], len(secure.messages)) == (1, 1, 5)


def test_threads_have_a_connection_each_and_no_more_than_there_are_at_once(
    server: SmtpServer, provide: Callable[..., SmtpProvider], row: dict[str, Any]
) -> None:
    provider = provide(server)

    def send(thread: int) -> None:
        for number in range(10):
            provider.send(Email.from_row(row | {"EmailId": f"{thread} {number}", "BodyText": f"{thread} {number}"}))

    threads = [threading.Thread(target=send, args=[thread]) for thread in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({message.content for message in server.messages}) == 60
    assert server.seen["greeting"] <= 6


@pytest.mark.parametrize("fate", [drop, "421 4.4.2 idle for too long", "502 what"])
def test_a_connection_that_died_while_idle_is_replaced_within_the_attempt(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, fate: Any
) -> None:
    provider = provide(server)
    provider.send(email)
    server.fates["RSET"] = fate
    provider.send(email)
    assert (len(server.messages), server.seen["greeting"]) == (2, 2)


def test_what_was_idle_for_longer_than_a_dead_connection_is_not_tried(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    provider = provide(server)
    deadline = time.monotonic() + 10
    with provider._sessions.one(deadline), provider._sessions.one(deadline), provider._sessions.one(deadline):
        pass
    server.fates["RSET"] = "502 what"
    provider.send(email)
    assert (server.seen["RSET"], server.seen["greeting"], len(provider._sessions._idle)) == (1, 4, 1)


def test_the_last_dot_does_not_wait_for_the_content_s_acknowledgement(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    provider = provide(server)
    provider.send(email)
    (session,) = provider._sessions._idle
    assert session.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_server_that_closed_what_was_idle_is_gone_to_anew(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    provider = provide(server)
    provider.send(email)
    server.drop_all()
    provider.send(email)
    assert (len(server.messages), server.seen["RSET"]) == (2, 0)


def test_a_connection_that_hangs_when_it_is_used_again_leaves_time_for_another(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    provider = provide(server, timeout=2 * LONGER)
    provider.send(email)
    server.fates["RSET"] = hang
    provider.send(email)
    assert len(server.messages) == 2


def test_what_was_idle_for_long_is_left_unasked(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_sessions, "LONGEST_IDLE_SECONDS", 0)
    provider = provide(server)
    for _ in range(3):
        provider.send(email)
    assert (server.seen["greeting"], server.seen["RSET"], server.seen["QUIT"]) == (3, 0, 2)


def test_a_connection_ends_after_so_many_emails(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smtp_sessions, "MOST_EMAILS", 2)
    provider = provide(server)
    for _ in range(5):
        provider.send(email)
    assert (server.seen["greeting"], server.seen["QUIT"]) == (3, 2)


def test_a_connection_is_not_used_again_after_what_nobody_foresaw(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = provide(server)
    with monkeypatch.context() as patch:
        patch.setattr("emails.providers.smtp.re.sub", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            provider.send(email)
    assert not provider._sessions._idle, "the next command would be content"
    provider.send(email)
    assert (server.seen["greeting"], len(server.messages)) == (2, 1)


def test_a_fork_has_connections_of_its_own(
    server: SmtpServer, provide: Callable[..., SmtpProvider], email: Email
) -> None:
    provider = provide(server)
    provider.send(email)
    child = os.fork()
    if not child:
        try:
            provider.send(email)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    provider.send(email)
    assert (len(server.messages), server.seen["greeting"]) == (3, 2)
