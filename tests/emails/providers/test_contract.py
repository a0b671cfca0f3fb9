"""What every provider promises, whatever server is behind it."""

from __future__ import annotations

import base64
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from email.policy import default
from importlib.metadata import entry_points
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from boto3.dynamodb.types import Binary

from emails.email import Email
from emails.encoded_id import encoded_id
from emails.events import RejectReason
from emails.providers import GROUP, load_providers
from emails.providers.anymail_services import SERVICES
from emails.providers.contract import PermanentError, TemporaryError, UnknownResultError
from settings import Settings
from tests.emails.providers.backends import BACKENDS, RECIPIENT, SERVERS, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.emails.providers.backends import Backend, Server

THREADS = 8
SLACK = 5  # seconds that a busy machine may need in addition
MARK = "pr1vate"
FAILURES = {
    "fail_temporarily": TemporaryError,
    "fail_permanently": PermanentError,
    "lose_the_answer": UnknownResultError,
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    with BACKENDS[request.param](tmp_path) as backend:
        yield backend


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with SERVERS[request.param](tmp_path) as server:
        yield server


@pytest.fixture
def new_email(row: dict[str, Any]) -> Callable[..., Email]:
    """Return an email to the suite's recipient, with the mark in every private attribute."""
    marked = {
        "Subject": f"{MARK} subject",
        "Sender": f"{MARK} sender <{MARK}-from@example.com>",
        "RecipientsTo": [RECIPIENT],
        "RecipientsBcc": [f"{MARK}-bcc@example.com"],
        "ReplyTo": [f"{MARK}-reply@example.com"],
        "BodyText": f"{MARK} text",
        "BodyHtml": f"<p>{MARK} html</p>",
        "Headers": {f"X-{MARK}": f"{MARK} header"},
        "Tags": {f"{MARK}-tag": f"{MARK}-value"},
        "Attempts": 1,
    }
    return lambda **attributes: Email.from_row(row | marked | attributes)


def test_every_provider_of_ours_is_held_to_it() -> None:
    ours = {point.name for point in entry_points(group=GROUP) if point.dist and point.dist.name == "email-service"}
    assert ours == set(BACKENDS) | set(SERVICES), "tests/emails/providers/test_anymail.py tests the other services"


def test_every_provider_says_its_name_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = [environment(name).items() for name in SERVICES]
    for name, value in chain([("EMAIL_SMTP_HOST", "mx.example.com")], *variables):
        monkeypatch.setenv(name, value)
    settings = Settings(send_via=(*BACKENDS, *SERVICES))
    for name, provider in load_providers(settings).items():
        assert (provider.name, provider.longest_send > 0) == (name, True)
        assert provider.max_message_bytes is None or provider.max_message_bytes > 0


def test_what_is_accepted_has_a_receipt_with_the_provider_s_name_and_an_id(
    backend: Backend, new_email: Callable[..., Email]
) -> None:
    provider, email, started = backend.provider(), new_email(), time.time()
    receipt = provider.send(email)
    assert receipt.provider == provider.name
    assert receipt.message_id
    assert receipt.refused == ()
    assert started <= receipt.accepted_at <= time.time()
    assert MARK not in f"{receipt!r} {receipt.response}"


def test_the_message_has_the_email_s_id_and_nobody_s_name_who_is_in_blind_copy(
    backend: Backend, new_email: Callable[..., Email]
) -> None:
    email = new_email()
    backend.provider().send(email)
    (received,) = backend.received()
    message = message_from_bytes(received, policy=default)
    assert message["X-Email-Id"] == encoded_id(email.id)
    assert f"{MARK}-bcc".encode() not in received
    assert base64.b64encode(f"{MARK}-bcc".encode()) not in received


def test_every_recipient_is_asked_for_once(backend: Backend, new_email: Callable[..., Email]) -> None:
    everybody = {
        "RecipientsTo": ["Ada <ada@example.com>", "ada@EXAMPLE.com", "bob@example.com"],
        "RecipientsCc": ["ada@example.com", "Ada@example.com"],
        "RecipientsBcc": ["ada@example.com", "eve@example.com", "bob@example.com"],
    }
    backend.provider().send(new_email(**everybody))
    assert sorted(backend.asked_for()) == [
        *("Ada@example.com", "ada@example.com", "bob@example.com", "eve@example.com")
    ]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_told_for_what_it_is_without_a_word_of_the_email(
    backend: Backend, new_email: Callable[..., Email], failure: str
) -> None:
    retry_after = getattr(backend, failure)()
    provider = backend.provider()
    with pytest.raises(FAILURES[failure]) as raised:
        provider.send(new_email())
    error = raised.value
    if isinstance(error, TemporaryError):
        assert error.retry_after == retry_after
    if isinstance(error, PermanentError):
        assert isinstance(error.reject_reason, RejectReason)
    assert str(error), "it is the FailureReason"
    assert MARK not in f"{error!r} {error} {provider!r}"
    assert MARK not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_attempt(server: Server, new_email: Callable[..., Email], failure: str) -> None:
    provider = server.provider()
    provider.send(new_email(EmailId="before"))  # so that the next email may use a kept connection
    getattr(server, failure)()
    with pytest.raises(FAILURES[failure]):
        provider.send(new_email())
    assert server.requests() == 2


def test_a_server_that_cannot_be_reached_is_temporary(server: Server, new_email: Callable[..., Email]) -> None:
    with pytest.raises(TemporaryError) as raised:
        server.unreachable().send(new_email())
    assert MARK not in str(raised.value)
    assert server.requests() == 0


def test_a_server_that_hangs_holds_a_send_no_longer_than_is_declared(
    server: Server, new_email: Callable[..., Email]
) -> None:
    provider = server.provider()
    server.hang()
    started = time.monotonic()
    with pytest.raises((TemporaryError, UnknownResultError)):
        provider.send(new_email())
    assert time.monotonic() - started < provider.longest_send + SLACK
    assert server.requests() == 1


def test_what_is_too_large_is_permanent_and_stays_here(server: Server, new_email: Callable[..., Email]) -> None:
    server.take_at_most(size := 10_000)
    provider = server.provider()
    file = {"name": f"{MARK}.pdf", "content_type": "application/pdf"}
    with pytest.raises(PermanentError, match=str(size)):
        provider.send(new_email(Attachments=[file | {"body": Binary(bytes(size * 3 // 4))}]))
    assert server.requests() == 0


def test_threads_send_at_once(backend: Backend, new_email: Callable[..., Email]) -> None:
    provider = backend.provider()
    emails = [new_email(EmailId=f"email-{number}") for number in range(4 * THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        receipts = list(pool.map(provider.send, emails))
    assert len({receipt.message_id for receipt in receipts}) == len(emails)
    ids = [message_from_bytes(message, policy=default)["X-Email-Id"] for message in backend.received()]
    assert sorted(ids) == sorted(encoded_id(email.id) for email in emails)
