"""An SMTP server, built on aiosmtpd, that a test can tell to fail at a step."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP, AuthResult

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterator

    Fate = str | Callable[["_Conversation"], Awaitable[None]]


async def drop(conversation: _Conversation) -> None:
    """Close the connection without an answer."""
    conversation.transport.abort()
    await asyncio.Event().wait()


async def hang(conversation: _Conversation) -> None:
    """Send nothing, and keep the connection open."""
    await asyncio.Event().wait()


async def drip(conversation: _Conversation) -> None:
    """Answer byte by byte, without an end."""
    while True:
        conversation._writer.write(b"2")
        await asyncio.sleep(0.05)


@dataclass
class Message:
    sender: str
    recipients: list[str]
    content: bytes
    parameters: list[str]


class SmtpServer:
    """Accepts everything except what `fates` names: it has a reply, or a function to call, for a step or a recipient.

    The steps are the commands in capitals, `greeting`, `content` (of which it reads a part) and `dot`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, implicit_tls: bool = False, **options: Any) -> None:
        self.fates: dict[str, Fate] = {}
        self.seen: Counter[str] = Counter()  # how often each step was reached
        self.messages: list[Message] = []
        self.logins: list[tuple[str, bytes, bytes]] = []
        self.ehlo_names: list[str] = []
        self.injected = ""  # added to the answer to STARTTLS, as by an attacker
        self.port = 0
        self._tls = tls if implicit_tls else None
        self._options = options | {"tls_context": None if implicit_tls else tls, "hostname": "mx.test"}
        self._options.setdefault("authenticator", self._authenticate)
        self._conversations: list[_Conversation] = []

    def fate(self, step: str) -> Fate | None:
        """Return what happens at this step this time."""
        return self.fates.get(step)

    def _converse(self) -> _Conversation:
        self._conversations.append(_Conversation(self, loop=self._loop, auth_require_tls=False, **self._options))
        return self._conversations[-1]

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, credentials: Any) -> AuthResult:
        self.logins.append((mechanism, credentials.login, credentials.password))
        return AuthResult(success=True)

    async def handle_DATA(self, conversation: _Conversation, session: Any, envelope: Any) -> str:  # noqa: N802 (aiosmtpd's)
        fate = self.fates.get("dot", "250 2.0.0 Ok: queued as 4XyZ")
        self.seen["dot"] += 1
        if callable(fate) or fate.startswith("2"):
            content, parameters = envelope.original_content, envelope.mail_options
            self.messages.append(Message(envelope.mail_from, envelope.rcpt_tos, content, parameters))
        if callable(fate):
            await fate(conversation)
        return fate

    async def serve(self, started: Callable[[], object]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listening = await self._loop.create_server(self._converse, "127.0.0.1", 0, ssl=self._tls)
        self.port = listening.sockets[0].getsockname()[1]
        started()
        await self._stop.wait()
        listening.close()
        self._drop_all()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def drop_all(self) -> None:
        """Close all connections."""
        self._loop.call_soon_threadsafe(self._drop_all)

    def _drop_all(self) -> None:
        for conversation in self._conversations:
            if conversation.transport:
                conversation.transport.abort()


class _Conversation(SMTP):
    """A connection."""

    def __init__(self, server: SmtpServer, **options: Any) -> None:
        super().__init__(server, enable_SMTPUTF8=options.pop("smtputf8", True), **options)
        self._server = server
        self._greeted = False

    async def meet(self, step: str) -> bool:
        """Carry out the step's fate. Return whether it had one."""
        self._server.seen[step] += 1
        fate = self._server.fate(step)
        if callable(fate):
            await fate(self)
        elif fate:
            await super().push(fate)
            if fate.startswith("421"):
                self.transport.close()
        return bool(fate)

    async def push(self, status: Any) -> None:
        if not self._greeted:
            self._greeted = True
            if await self.meet("greeting"):
                return
        if status == "220 Ready to start TLS":
            status += self._server.injected
        await super().push(status)

    async def smtp_RCPT(self, arg: str) -> None:  # noqa: N802 (aiosmtpd's)
        if arg[len("TO:<") : -1] in self._server.fates:
            await self.meet(arg[len("TO:<") : -1])
        elif not await self.meet("RCPT"):
            await super().smtp_RCPT(arg)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 (aiosmtpd's)
        if await self.meet("DATA"):
            return
        if fate := self._server.fate("content"):
            await super().push("354 go on")
            await self._reader.read(1000)
            await fate(self)
        await super().smtp_DATA(arg)


def _step(name: str) -> Callable[..., Awaitable[None]]:
    async def method(self: _Conversation, arg: str) -> None:
        if name == "EHLO":
            self._server.ehlo_names.append(arg)
        if not await self.meet(name):
            await getattr(SMTP, f"smtp_{name}")(self, arg)

    return method


for name in ("EHLO", "STARTTLS", "AUTH", "MAIL", "RSET", "QUIT"):
    setattr(_Conversation, f"smtp_{name}", _step(name))


@contextmanager
def running(server: SmtpServer) -> Iterator[SmtpServer]:
    """Serve in a thread until the context is left."""
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(started.set)))
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        server.stop()
        thread.join()
