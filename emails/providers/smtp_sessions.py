"""Connections to an SMTP server, kept between emails and shared by threads."""

from __future__ import annotations

import io
import logging
import os
import smtplib
import threading
import time
from base64 import b64encode
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from emails.providers.connection import Incoming, connect, time_left, tls_context
from emails.providers.contract import SendError, TemporaryError
from emails.providers.smtp_replies import CLOSING, Reply

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator

    from emails.providers.smtp_settings import SmtpSettings

logger = logging.getLogger(__name__)

EHLO = "EHLO (EMAIL_SMTP_EHLO_NAME)"
LONGEST_IDLE_SECONDS = 30  # many servers and NATs drop an idle connection after minutes, some in less than one
MOST_EMAILS = 100  # per connection: some servers refuse more, and a new connection may reach a new server


class Session(smtplib.SMTP):
    """One connection. Every operation ends by `deadline`, on the clock of time.monotonic().

    Every method raises OSError if the connection is lost, and TemporaryError if the server closes it.
    """

    def __init__(self, hostname: str, deadline: float) -> None:
        super().__init__(local_hostname=hostname)
        self.command_encoding = "utf-8"  # ASCII, except for the addresses of SMTPUTF8
        self.deadline = deadline
        self.emails = 0
        self.idle_since = 0.0

    def open(self, host: str, port: int) -> None:
        self.sock = connect(host, port, self.deadline)

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Switch to TLS, and forget what the server (or a third party in its place) has said before (RFC 3207)."""
        assert self.sock  # noqa: S101 (for the type checker)
        self.sock.settimeout(time_left(self.deadline))
        self.sock = context.wrap_socket(self.sock, server_hostname=host)
        self.file = None

    def ask(self, command: str) -> Reply:
        self.putcmd(command)
        return self.hear()

    def hear(self) -> Reply:
        code, text = self.getreply()
        reply = Reply(code, text.decode(errors="replace"))
        if not 200 <= code < 600:  # noqa: PLR2004 (RFC 5321, section 4.2.1)
            self.close()
            raise ConnectionError("it does not speak SMTP")
        if code == CLOSING:
            self.close()
            raise TemporaryError(f"the SMTP server closed the connection: {reply}")
        return reply

    def leave(self) -> None:
        """Send QUIT and close the connection, without waiting for the answer."""
        with suppress(OSError):
            self.putcmd("QUIT")
        self.close()

    def send(self, s: object) -> None:
        left = memoryview(s.encode(self.command_encoding) if isinstance(s, str) else s)  # type: ignore[arg-type]  # bytes
        try:
            while left:
                left = left[self._timed().send(left) :]
        except OSError:
            self.close()
            raise

    def getreply(self) -> tuple[int, bytes]:
        # With smtplib's own file, the time-out would start again with each byte that the server sends.
        self.file = self.file or io.BufferedReader(Incoming(self.receive))
        return super().getreply()

    def receive(self, buffer: memoryview) -> int:
        return self._timed().recv_into(buffer)

    def _timed(self) -> socket.socket:
        if not self.sock:
            raise ConnectionError("the connection is closed")
        self.sock.settimeout(time_left(self.deadline))
        return self.sock


class Sessions:
    """Opens sessions and keeps the idle ones. The session that was used last is used first."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self._context = tls_context() if settings.smtp_security != "none" else None
        self._ehlo_name = settings.smtp_ehlo_name or _own_name()
        self._lock = threading.Lock()
        self._idle: list[Session] = []
        os.register_at_fork(after_in_child=self._forget)

    @contextmanager
    def one(self, deadline: float) -> Iterator[Session]:
        """Provide a session for sending one email before the deadline.

        Raises:
            OSError: the connection failed.
            TemporaryError: the server refuses everybody, or these credentials. That is the operator's or the server's
                problem, never the email's.
        """
        session = self._kept(deadline) or self._opened(deadline)
        session.emails += 1
        try:
            yield session
        except SendError:  # the server has answered, so another email may follow
            self._keep(session)
            raise
        except BaseException:
            session.close()
            raise
        self._keep(session)

    def close(self) -> None:
        """Close the idle sessions."""
        with self._lock:
            idle, self._idle = self._idle, []
        for session in idle:
            session.leave()

    def _kept(self, deadline: float) -> Session | None:
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if not session:
            return None
        now = time.monotonic()
        if now - session.idle_since < LONGEST_IDLE_SECONDS:
            # RSET is needed because the last email may have ended in the middle of a transaction. It also shows whether
            # the connection was lost in the meantime, before anything is sent. If the connection hangs, half of the
            # time is left for a new one.
            session.deadline = now + (deadline - now) / 2
            with suppress(OSError, SendError):
                if session.ask("RSET").accepted:
                    session.deadline = deadline
                    return session
        session.leave()
        self.close()  # the others have been idle for longer
        return None

    def _keep(self, session: Session) -> None:
        if not session.sock or session.emails >= MOST_EMAILS:
            session.leave()
            return
        session.idle_since = time.monotonic()
        with self._lock:
            self._idle.append(session)

    def _opened(self, deadline: float) -> Session:
        session = Session(self._ehlo_name, deadline)
        try:
            self._enter(session)
        except BaseException:
            session.close()
            raise
        return session

    def _enter(self, session: Session) -> None:
        settings = self._settings
        session.open(settings.smtp_host, settings.smtp_port)
        if self._context and settings.smtp_security == "tls":
            session.secure(self._context, settings.smtp_host)
        _expect(session.hear(), "the connection")
        _expect(Reply(*_decoded(session.ehlo())), EHLO)
        if self._context and settings.smtp_security == "starttls":
            if not session.has_extn("starttls"):
                raise TemporaryError("the SMTP server does not offer STARTTLS, and nothing is sent in clear text")
            _expect(session.ask("STARTTLS"), "STARTTLS")
            session.secure(self._context, settings.smtp_host)
            _expect(Reply(*_decoded(session.ehlo())), EHLO)
        if settings.smtp_username and settings.smtp_password:
            _log_in(session, settings.smtp_username, settings.smtp_password.get_secret_value())

    def _forget(self) -> None:
        """Drop the sessions in a child process after a fork, because its parent goes on using them."""
        self._lock = threading.Lock()
        for session in self._idle:
            session.close()
        self._idle = []


def _own_name() -> str:
    """Return the machine's name, or its address in brackets if the name has no dot. This may ask the DNS."""
    name = smtplib.SMTP().local_hostname
    if name.startswith("["):
        logger.warning(
            "the worker greets the SMTP server as %s, which some servers refuse: set EMAIL_SMTP_EHLO_NAME", name
        )
    return name


def _decoded(answer: tuple[int, bytes]) -> tuple[int, str]:
    return answer[0], answer[1].decode(errors="replace")


def _expect(reply: Reply, what: str) -> None:
    if not reply.accepted:
        raise TemporaryError(f"the SMTP server answered {what} with {reply}")


def _log_in(session: Session, username: str, password: str) -> None:
    """Log in with PLAIN (RFC 4616), or else with LOGIN. Over TLS, other mechanisms would protect nothing more.

    smtplib's own `login` accepts only ASCII, and tries a wrong password with one mechanism after the other.
    """
    mechanisms = session.esmtp_features.get("auth", "").upper().split()
    if "PLAIN" in mechanisms:
        reply = session.ask("AUTH PLAIN " + _base64(f"\0{username}\0{password}"))
    elif "LOGIN" in mechanisms:
        reply = session.ask("AUTH LOGIN")
        for answer in (username, password):
            if reply.code == 334:  # noqa: PLR2004 (RFC 4954, section 4)
                reply = session.ask(_base64(answer))
    else:
        raise TemporaryError("the SMTP server offers neither AUTH PLAIN nor AUTH LOGIN")
    _expect(reply, "the credentials (EMAIL_SMTP_USERNAME)")


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()
