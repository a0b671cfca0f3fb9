"""A service's API is asked once and in time, whatever the network does."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from boto3.dynamodb.types import Binary

from emails.email import Email
from emails.providers import api_client
from emails.providers.contract import PermanentError, SendError, TemporaryError, UnknownResultError
from tests.emails.providers.backends import FAILURES, anymail_provider
from tests.support.anymail_server import AnymailServer, Reply
from tests.support.api_server import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from emails.providers.anymail import AnymailProvider

SHORT = 0.15  # seconds for a send that is not answered in time
SLACK = 5  # seconds that a busy machine may need in addition


@pytest.fixture
def server() -> Iterator[AnymailServer]:
    with running(AnymailServer()) as server:
        yield server


@pytest.fixture
def new_email(row: dict[str, Any]) -> Callable[..., Email]:
    return lambda **attributes: Email.from_row(row | {"Attempts": 1} | attributes)


@pytest.fixture
def name() -> str:
    """Return the service's name, which some tests set."""
    return "resend"


@pytest.fixture
def provider(server: AnymailServer, name: str) -> Iterator[AnymailProvider]:
    provider = anymail_provider(name, server.url)
    yield provider
    provider.close()


@pytest.mark.parametrize(
    ("name", "fate", "is_kept"),
    [
        *((name, "drip", True) for name in FAILURES),
        *(("resend", fate, is_kept) for fate in ("hang", "drip the head") for is_kept in (False, True)),
    ],
)
def test_a_send_ends_in_time_and_leaves_no_thread(  # noqa: PLR0913 (parameters and fixtures)
    server: AnymailServer,
    provider: AnymailProvider,
    new_email: Callable[..., Email],
    name: str,
    fate: Any,
    *,
    is_kept: bool,
) -> None:
    if is_kept:
        provider.send(new_email())
    server.fate = fate
    server.reply = Reply(200, {"id": "a" * 1000})
    provider.longest_send = SHORT
    threads = threading.active_count()
    started = time.monotonic()
    with pytest.raises(SendError, match="no answer in time") as raised:
        provider.send(new_email())
    # On a busy machine, the time may be up before the request has left.
    assert type(raised.value) is (UnknownResultError if len(server.calls) > is_kept else TemporaryError)
    assert SHORT <= time.monotonic() - started < SHORT + SLACK
    assert threading.active_count() <= threads + 1  # the server's own, for the connection
    assert server.connections == 1


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize(
    ("fate", "reason"),
    [
        ("reset", "Connection reset by peer"),
        ("close", "Remote end closed connection without response"),
        ("cut off", "HTTPException"),
    ],
)
def test_an_answer_that_is_lost_is_unknown(  # noqa: PLR0913 (parameters and fixtures)
    server: AnymailServer,
    provider: AnymailProvider,
    new_email: Callable[..., Email],
    name: str,
    fate: Any,
    *,
    reason: str,
) -> None:
    provider.send(new_email())
    server.fate, server.reply = fate, Reply(200, {"id": "1"})
    with pytest.raises(UnknownResultError, match=rf"^no answer from \w+: {reason}$"):
        provider.send(new_email())
    assert len(server.calls) == 2
    server.fate, server.reply = "answer", None
    provider.send(new_email())
    assert server.connections == 2, "a broken connection is not used again"


@pytest.mark.parametrize("name", FAILURES)
def test_a_request_that_did_not_leave_whole_is_temporary(
    server: AnymailServer, provider: AnymailProvider, new_email: Callable[..., Email], name: str
) -> None:
    server.fate = "reset at once"
    with pytest.raises(TemporaryError, match=r"connection to \w+"):
        provider.send(new_email(BodyText="a" * 9_000_000))  # more than the system's buffers take
    assert server.calls == []


def test_a_request_that_cannot_leave_in_time_is_temporary(new_email: Callable[..., Email]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # it accepts the connection but reads nothing
        provider = anymail_provider("resend", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        provider.longest_send = SHORT
        file = {"name": "a.bin", "content_type": "application/octet-stream", "body": Binary(bytes(10_000_000))}
        with pytest.raises(TemporaryError, match=r"connection to Resend.*: no answer in time"):
            provider.send(new_email(Attachments=[file]))


def test_a_name_that_does_not_exist_is_temporary(new_email: Callable[..., Email]) -> None:
    with pytest.raises(TemporaryError, match=r"^no connection to Resend: "):
        anymail_provider("resend", "https://nowhere.invalid").send(new_email())


def test_a_connection_is_kept_until_the_server_or_time_ends_it(
    server: AnymailServer, provider: AnymailProvider, new_email: Callable[..., Email], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        provider.send(new_email())
    assert server.connections == 1
    server.reply = Reply(200, {"id": "1"}, (("Connection", "close"),))
    provider.send(new_email())
    server.reply = None
    provider.send(new_email())
    assert server.connections == 2
    monkeypatch.setattr(api_client, "LONGEST_IDLE_SECONDS", 0)
    provider.send(new_email())
    assert server.connections == 3


def test_a_kept_connection_that_the_server_has_closed_is_not_used(
    provider: AnymailProvider, server: AnymailServer, new_email: Callable[..., Email], wait_until: Callable[..., None]
) -> None:
    provider.send(new_email())
    (kept,) = provider._client._idle
    kept.timed._socket.shutdown(socket.SHUT_WR)  # the server closes its end
    wait_until(kept.timed.is_readable)
    provider.send(new_email())
    assert server.connections == 2


def test_a_rejection_leaves_the_connection_for_the_next_email(
    server: AnymailServer, provider: AnymailProvider, new_email: Callable[..., Email]
) -> None:
    server.reply = Reply(422, {"name": "validation_error"})
    for _ in range(2):
        with pytest.raises(PermanentError):
            provider.send(new_email())
    assert server.connections == 1


def test_each_thread_uses_its_own_connection(
    server: AnymailServer, provider: AnymailProvider, new_email: Callable[..., Email]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: provider.send(new_email()), range(100)))
    assert len(server.calls) == 100
    assert server.connections <= 8


def test_a_child_process_does_not_use_its_parent_s_connections(
    server: AnymailServer, provider: AnymailProvider, new_email: Callable[..., Email]
) -> None:
    provider.send(new_email())
    child = os.fork()
    if not child:
        try:
            provider.send(new_email())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    provider.send(new_email())
    assert len(server.calls) == 3
    assert server.connections == 2


def test_no_redirect_is_followed_and_no_proxy_of_the_environment_is_used(
    server: AnymailServer, provider: AnymailProvider, new_email: Callable[..., Email], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.reply = Reply(307, headers=(("Location", f"{server.url}/resend/emails"),))
    with pytest.raises(TemporaryError, match="307"):
        provider.send(new_email())
    assert len(server.calls) == 1


def test_an_answer_without_end_is_not_read_whole(
    server: AnymailServer, provider: AnymailProvider, new_email: Callable[..., Email]
) -> None:
    server.reply = Reply(200, {"id": "a" * 2 * api_client.LONGEST_ANSWER})
    with pytest.raises(UnknownResultError):
        provider.send(new_email())


@contextmanager
def answering_once(answer: bytes) -> Iterator[str]:
    """Yield the URL of a server that reads one whole request, sends these bytes, and closes the connection.

    If it closed before it had read all, the client would get a reset after the answer instead of its end.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as incoming:
                lines = iter(incoming.readline, b"\r\n")
                (length,) = (int(line[16:]) for line in lines if line.startswith(b"Content-Length: "))
                incoming.read(length)
                connection.sendall(answer)

        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            served.result()


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 -\r\n\r\n", b"HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n\r\n"])
def test_an_answer_of_unknown_length_is_read_to_its_end(new_email: Callable[..., Email], head: bytes) -> None:
    content = b'b\r\n{"id": "12"\r\n1\r\n}\r\n0\r\n\r\n' if b"chunked" in head else b'{"id": "12"}'
    with answering_once(head + content) as url:
        provider = anymail_provider("resend", url)
        assert provider.send(new_email()).message_id == "12"
        provider.close()


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\0" * 100_000])
def test_a_server_that_does_not_speak_http_is_unknown(new_email: Callable[..., Email], answer: bytes) -> None:
    with answering_once(answer) as url:
        provider = anymail_provider("resend", url)
        with pytest.raises(UnknownResultError, match=r"^no answer from Resend: \w+$"):
            provider.send(new_email())


# --- TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure_server(authority: trustme.CA) -> Iterator[AnymailServer]:
    server = AnymailServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server):
        yield server


def _secure(server: AnymailServer) -> AnymailProvider:
    return anymail_provider("resend", f"https://localhost:{server.server_port}")


def test_tls_verifies_the_certificate(secure_server: AnymailServer, new_email: Callable[..., Email]) -> None:
    with pytest.raises(TemporaryError, match="no connection to Resend: its certificate is not valid"):
        _secure(secure_server).send(new_email())
    assert secure_server.calls == []


def test_over_tls_a_send_is_accepted_or_ends_in_time(
    secure_server: AnymailServer,
    authority: trustme.CA,
    new_email: Callable[..., Email],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    provider = _secure(secure_server)
    for _ in range(2):
        assert provider.send(new_email()).message_id
    assert secure_server.connections == 1
    secure_server.fate = "drip"
    secure_server.reply = Reply(200, {"id": "a" * 1000})
    provider.longest_send = SHORT
    with pytest.raises(SendError, match="no answer in time"):
        provider.send(new_email())


def test_a_tls_handshake_that_hangs_ends_in_time(new_email: Callable[..., Email]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        provider = anymail_provider("resend", f"https://localhost:{silent.getsockname()[1]}")
        provider.longest_send = SHORT
        with pytest.raises(TemporaryError, match=r"^no connection to Resend: "):
            provider.send(new_email())


def test_it_works_with_gevent(server: AnymailServer) -> None:
    program = """
from gevent import monkey; monkey.patch_all()
import sys, time, gevent
from emails.email import Email
from emails.providers.contract import UnknownResultError
from tests.emails.providers.backends import FAILURES, anymail_provider

row = {"EmailId": "1", "EmailStatus": "Pending", "Subject": "s", "Sender": "a@example.com",
       "RecipientsTo": ["b@example.com"], "BodyText": "t"}
provider = anymail_provider("resend", sys.argv[1])
sends = [gevent.spawn(provider.send, Email.from_row(row)) for _ in range(20)]
print(len({send.get().message_id for send in sends}))
hanging = anymail_provider("resend", sys.argv[2])
hanging.longest_send = 0.5
started = time.monotonic()
sends = [gevent.spawn(hanging.send, Email.from_row(row)) for _ in range(20)]
gevent.joinall(sends)
print({type(send.exception).__name__ for send in sends}, time.monotonic() - started < 10)
"""
    with socket.create_server(("127.0.0.1", 0), backlog=32) as silent:
        urls = [server.url, f"http://127.0.0.1:{silent.getsockname()[1]}"]
        ran = subprocess.run([sys.executable, "-c", program, *urls], capture_output=True, text=True, check=False)
    assert ran.stdout.splitlines() == ["20", "{'UnknownResultError'} True"], ran.stderr
