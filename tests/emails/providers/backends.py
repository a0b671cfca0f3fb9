"""The servers behind each provider in the contract suite. Tests tell them how to answer.

To add one, write a class like Smtp, and add a line to SERVERS.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from pydantic import HttpUrl

from emails.providers.anymail import AnymailProvider
from emails.providers.anymail_services import SERVICES
from emails.providers.ses import SesProvider
from emails.providers.smtp import SmtpProvider
from emails.providers.smtp_settings import SmtpSettings
from emails.providers.stub import StubProvider
from settings import Settings
from tests.support.anymail_server import AnymailServer, Reply, message, recipients
from tests.support.api_server import running as running_api
from tests.support.ses_server import SesServer
from tests.support.smtp_server import SmtpServer, drop, hang, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
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


# How each service that is tested in full fails temporarily and permanently, as it documents.
FAILURES = {
    "brevo": (
        Reply(429, {"code": "too_many_requests", "message": RECIPIENT}, (("Retry-After", "7"),)),
        Reply(400, {"code": "invalid_parameter", "message": f"{RECIPIENT} is not valid in to"}),
    ),
    "mailgun": (
        Reply(429, {"message": f"too many for {RECIPIENT}"}, (("Retry-After", "7"),)),
        Reply(400, {"message": f"'to' parameter is not a valid address: {RECIPIENT}"}),
    ),
    "postmark": (
        Reply(429, {"ErrorCode": 429, "Message": f"too many for {RECIPIENT}"}, (("Retry-After", "7"),)),
        Reply(422, {"ErrorCode": 300, "Message": f"Invalid 'To' address: '{RECIPIENT}'."}),
    ),
    "resend": (
        Reply(429, {"name": "rate_limit_exceeded", "message": RECIPIENT}, (("Retry-After", "7"),)),
        Reply(422, {"name": "invalid_parameter", "message": f"{RECIPIENT} is not valid"}),
    ),
    "sendgrid": (
        Reply(429, {"errors": [{"message": RECIPIENT, "field": None}]}, (("Retry-After", "7"),)),
        Reply(400, {"errors": [{"message": f"{RECIPIENT} is not valid", "field": "personalizations.0.to"}]}),
    ),
}

# What each service needs, without which it is not chosen.
REQUIRED = {
    "brevo": {"api_key": "xkeysib-1"},
    "mailersend": {"api_token": "mlsn.1"},
    "mailgun": {"api_key": "key-1", "sender_domain": "mg.example.com"},
    "mailjet": {"api_key": "a1", "secret_key": "b1"},
    "mailtrap": {"api_token": "c1"},
    "mandrill": {"api_key": "md-1"},
    "postal": {"api_key": "d1", "api_url": "https://postal.example.com"},
    "postmark": {"server_token": "e1"},
    "resend": {"api_key": "re_1"},
    "scaleway": {"secret_key": "f1", "project_id": "11111111-2222-3333-4444-555555555555"},
    "sendgrid": {"api_key": "SG.1"},
    "sparkpost": {"api_key": "g1"},
    "unisender_go": {"api_key": "h1", "api_url": "https://go1.unisender.ru/en/transactional/api/v1"},
}


def environment(name: str, **given: str) -> dict[str, str]:
    """Return the variables that a service needs."""
    return {f"EMAIL_{name}_{option}".upper(): value for option, value in (REQUIRED[name] | given).items()}


def anymail_provider(name: str, url: str, **given: Any) -> AnymailProvider:
    """Return a provider whose service is at this URL."""
    service = SERVICES[name]
    options = {f"{name}_{option}": value for option, value in (REQUIRED[name] | {"api_url": f"{url}/{name}"}).items()}
    return AnymailProvider(service, Settings(provider_timeout=TIMEOUT, **given), service.settings(**options))


class Anymail:
    """A service behind django-anymail."""

    def __init__(self, name: str, server: AnymailServer, patch: pytest.MonkeyPatch) -> None:
        self._name = name
        self._server = server
        self._patch = patch
        self._providers: list[AnymailProvider] = []

    def provider(self, url: str = "") -> Provider:
        self._providers.append(anymail_provider(self._name, url or self._server.url))
        return self._providers[-1]

    def fail_temporarily(self) -> float:
        self._server.reply = FAILURES[self._name][0]
        return 7

    def fail_permanently(self) -> None:
        self._server.reply = FAILURES[self._name][1]

    def lose_the_answer(self) -> None:
        self._server.fate = "reset"

    def received(self) -> Sequence[bytes]:
        return [message(self._name, call) for call in self._server.calls]

    def asked_for(self) -> Sequence[str]:
        return [recipient for call in self._server.calls for recipient in recipients(self._name, call)]

    def requests(self) -> int:
        return len(self._server.calls)

    def unreachable(self) -> Provider:
        return self.provider("http://127.0.0.1:9")

    def hang(self) -> None:
        self._server.fate = "hang"
        for provider in self._providers:
            provider.longest_send = 0.3  # less than the settings allow, to save time

    def take_at_most(self, size: int) -> None:
        limited = replace(SERVICES[self._name], max_message_bytes=size)
        self._patch.setitem(SERVICES, self._name, limited)

    def close(self) -> None:
        for provider in self._providers:
            provider.close()


@contextmanager
def _anymail(name: str, tmp_path: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, running_api(AnymailServer()) as server:
        backend = Anymail(name, server, patch)
        yield backend
        backend.close()


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
    with pytest.MonkeyPatch.context() as patch, running_api(SesServer()) as server:
        yield Ses(server, patch)


SERVERS: dict[str, Callable[[Path], AbstractContextManager[Server]]] = {
    "ses": ses,
    "smtp": smtp,
    **{name: partial(_anymail, name) for name in FAILURES},
}
BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Backend]]] = {"stub": stub, **SERVERS}
