"""The servers behind each provider in the contract suite. Tests tell them how to answer.

To add one, write a class like Smtp, and add a line to SERVERS.
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

TIMEOUT = 1  # seconds, for every provider here; this is the smallest value allowed
RECIPIENT = "pr1vate-to@example.com"  # the recipient of every email in the suite


class Backend(Protocol):
    """Accepts every email until it is told otherwise. Its refusals quote the recipient if possible."""

    def provider(self) -> Provider:
        """Return a provider that uses this backend."""

    def fail_temporarily(self) -> float:
        """Fail temporarily from now on. Return after how many seconds it asks for a retry, or 0 if it does not say."""

    def fail_permanently(self) -> None:
        """Fail permanently from now on."""

    def lose_the_answer(self) -> None:
        """Give no answer from now on, whether or not the email was accepted."""

    def received(self) -> Sequence[bytes]:
        """The messages that it accepted."""

    def asked_for(self) -> Sequence[str]:
        """The recipients of those messages, each as often as it was named."""


class Server(Backend, Protocol):
    """A backend that is reached over a connection."""

    def requests(self) -> int:
        """How often it was asked to accept an email."""

    def unreachable(self) -> Provider:
        """Return a provider of the same kind whose server does not exist."""

    def hang(self) -> None:
        """Answer nothing and accept nothing from now on."""

    def take_at_most(self, size: int) -> None:
        """Limit messages to this size from now on. It is also the limit of a provider that knows its own."""


class _Asked(dict[str, str]):
    """The stub's failures, which it looks up for each recipient."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_asked: list[str] = []

    def get(self, key: str, default: str = "") -> str:  # type: ignore[override]  # the stub calls it with these arguments
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
        self._failures[RECIPIENT] = "unknown"

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
        # The real 40 MB would take seconds to write.
        self._patch.setattr("emails.providers.ses.MAX_MESSAGE_BYTES", size)


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
