"""What stands behind each provider in the contract suite, told how to answer.

To add one: a class like Smtp, and a line in SERVERS.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest
from pydantic import HttpUrl

from emails.providers.ses import SesProvider
from emails.providers.smtp import SmtpProvider
from emails.providers.smtp_settings import SmtpSettings
from emails.providers.stub import StubProvider
from settings import Settings
from tests.support.ses_server import SesServer
from tests.support.ses_server import running as running_ses
from tests.support.smtp_server import SmtpServer, drop, hang, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from emails.providers.contract import Provider

TIMEOUT = 1  # seconds, of every provider here: the least that may be set
RECIPIENT = "pr1vate-to@example.com"  # of every email of the suite


class Backend(Protocol):
    """Accepts every email until it is told otherwise. Where it can, its refusals quote the recipient."""

    def provider(self) -> Provider:
        """One that asks it."""

    def fail_temporarily(self) -> float:
        """From now on. Gives the seconds after which it asks to be asked again, 0 where it says nothing of that."""

    def fail_permanently(self) -> None:
        """From now on."""

    def lose_the_answer(self) -> None:
        """From now on, whether or not it accepted the email."""

    def received(self) -> Sequence[bytes]:
        """The messages that it accepted."""

    def asked_for(self) -> Sequence[str]:
        """The recipients of those messages, each as often as it was named."""


class Server(Backend, Protocol):
    """One that is asked over a connection."""

    def requests(self) -> int:
        """How often it was asked to take an email."""

    def unreachable(self) -> Provider:
        """A provider of the same kind with nobody to ask."""

    def hang(self) -> None:
        """Say nothing from now on, and accept nothing."""

    def take_at_most(self, size: int) -> None:
        """From now on. Where the provider knows how much without a word of its server, this is what it knows."""


class _Asked(dict[str, str]):
    """The stub's failures, which it looks up for each recipient."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_asked: list[str] = []

    def get(self, key: str, default: str = "") -> str:  # type: ignore[override]  # as the stub calls it
        self.keys_asked.append(key)
        return super().get(key, default)


class Stub:
    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox
        self._failures = _Asked()

    def provider(self) -> Provider:
        return StubProvider(self._outbox, self._failures)

    def fail_temporarily(self) -> float:
        self._failures[RECIPIENT] = "temporary"
        return 0

    def fail_permanently(self) -> None:
        self._failures[RECIPIENT] = "permanent"

    def lose_the_answer(self) -> None:
        self._failures[RECIPIENT] = "no-telling"

    def received(self) -> Sequence[bytes]:
        return [file.read_bytes() for file in self._outbox.glob("*.eml")]

    def asked_for(self) -> Sequence[str]:
        return self._failures.keys_asked


class Smtp:
    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._providers: list[SmtpProvider] = []

    def provider(self, port: int = 0) -> Provider:
        own = SmtpSettings(smtp_host="127.0.0.1", smtp_port=port or self._server.port, smtp_security="none")
        self._providers.append(SmtpProvider(Settings(provider_timeout=TIMEOUT), own))
        return self._providers[-1]

    def fail_temporarily(self) -> float:
        self._server.fates["RCPT"] = f"450 4.2.1 <{RECIPIENT}> is busy"
        return 0

    def fail_permanently(self) -> None:
        self._server.fates["RCPT"] = f"550 5.1.1 <{RECIPIENT}> is unknown"

    def lose_the_answer(self) -> None:
        self._server.fates["dot"] = drop

    def received(self) -> Sequence[bytes]:
        return [message.content for message in self._server.messages]

    def asked_for(self) -> Sequence[str]:
        return [recipient for message in self._server.messages for recipient in message.recipients]

    def requests(self) -> int:
        return self._server.seen["MAIL"]

    def unreachable(self) -> Provider:
        return self.provider(port=9)

    def hang(self) -> None:
        self._server.fates["MAIL"] = hang

    def take_at_most(self, size: int) -> None:
        self._server.fates["EHLO"] = f"250-mx.test\r\n250 SIZE {size}"

    def close(self) -> None:
        for provider in self._providers:
            provider.close()


class Ses:
    def __init__(self, server: SesServer, patch: pytest.MonkeyPatch) -> None:
        self._server = server
        self._patch = patch

    def provider(self, port: int = 0) -> Provider:
        url = HttpUrl(f"http://127.0.0.1:{port or self._server.server_port}")
        return SesProvider.from_settings(Settings(endpoint_url=url, provider_timeout=TIMEOUT))

    def fail_temporarily(self) -> float:
        self._server.error = (429, "TooManyRequestsException", f"too many for {RECIPIENT}")
        return 1

    def fail_permanently(self) -> None:
        self._server.error = (400, "MessageRejected", f"none for {RECIPIENT}")

    def lose_the_answer(self) -> None:
        self._server.drops = True

    def received(self) -> Sequence[bytes]:
        return self._server.messages()

    def asked_for(self) -> Sequence[str]:
        return [
            recipient
            for request in self._server.requests
            for recipients in request["Destination"].values()
            for recipient in recipients
        ]

    def requests(self) -> int:
        return len(self._server.requests)

    def unreachable(self) -> Provider:
        return self.provider(port=9)

    def hang(self) -> None:
        self._server.hangs = True

    def take_at_most(self, size: int) -> None:
        self._patch.setattr("emails.providers.ses.MAX_MESSAGE_BYTES", size)  # 40 MB take seconds to write


@contextmanager
def stub(tmp_path: Path) -> Iterator[Backend]:
    yield Stub(tmp_path / "outbox")


@contextmanager
def smtp(tmp_path: Path) -> Iterator[Server]:
    with running(SmtpServer()) as server:
        backend = Smtp(server)
        yield backend
        backend.close()


@contextmanager
def ses(tmp_path: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, running_ses(SesServer()) as server:
        yield Ses(server, patch)


SERVERS = {"ses": ses, "smtp": smtp}
BACKENDS = {"stub": stub, **SERVERS}
