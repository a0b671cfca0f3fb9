"""The program that receives webhooks: its answers, and what is on the callbacks queue after them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import HttpUrl
from tornado.netutil import bind_sockets

from commands.webhooks import READING_BYTES, InProgress, Senders, serve
from emails.resources import find_queue
from emails.webhooks.envelope import LARGEST_BODY
from emails.webhooks.receiver import WebhookReceiver
from emails.webhooks.request import WebhookRequest
from emails.webhooks.settings import WebhookSettings
from settings import SettingsError
from settings.aws import client
from tests.emails.webhooks.examples import EXAMPLES, ONE_EACH, Example
from tests.support.proxy import Dropped, Proxy
from tests.support.proxy import running as running_proxy
from tests.support.webhook_program import running
from tests.support.webhooks import LOGIN, SVIX_KEY, ec_key, public, secrets, signed, webhook_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from settings import Settings

POSTMARK = next(example for example in EXAMPLES if example.provider == "postmark")


@pytest.fixture
def bodies(settings: Settings) -> Callable[[], list[str]]:
    """Take all messages from the callbacks queue."""
    sqs = client("sqs", settings)
    url = sqs.get_queue_url(QueueName=settings.callbacks_queue)["QueueUrl"]

    def take() -> list[str]:
        found = []
        while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            for message in messages:
                found.append(message["Body"])
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return found

    return take


def test_each_request_gets_the_answer_that_the_docs_promise(
    settings: Settings, bodies: Callable[[], list[str]]
) -> None:
    given = {name: value for name, value in secrets().items() if not name.startswith("brevo")}
    request = signed("postmark", POSTMARK.report)
    with running(settings, **given) as program:
        assert {example.provider: program.post(example.provider, _sign(example)) for example in ONE_EACH} == {
            example.provider: 404 if example.provider == "brevo" else 200 for example in ONE_EACH
        }
        assert sorted(json.loads(body)["provider"] for body in bodies()) == sorted(
            example.provider for example in ONE_EACH if example.provider != "brevo"
        )
        refused = program.request("POST", "/webhooks/postmark", signed("postmark", POSTMARK.report, login="a:b"))
        assert (refused.status, refused.getheader("WWW-Authenticate", "")[:5]) == (401, "Basic")
        assert program.post("resend", replace(request, headers={})) == 401
        assert program.post("postmark", replace(request, body=b"x" * (LARGEST_BODY + 1))) == 413
        assert program.post("postmark", replace(request, body=b"x" * (4 * LARGEST_BODY))) == 413
        assert program.post("nobody", request) == 404
        assert program.request("POST", "/", request).status == 404
        assert program.request("PUT", "/webhooks/postmark", request).status == 405
        assert program.request("HEAD", "/webhooks/mandrill", WebhookRequest({}, b"")).status == 200
        assert program.request("GET", "/webhooks/unisender_go", WebhookRequest({}, b"")).status == 200
        assert program.request("GET", "/health", WebhookRequest({}, b"")).status == 200
        assert bodies() == []


def _sign(example: Example) -> WebhookRequest:
    return signed(example.provider, example.report)


def test_without_sqs_the_service_is_asked_to_try_again(settings: Settings) -> None:
    gone = False

    def meddle(_service: str, action: str, _body: bytes) -> str:
        if gone and action.startswith("SendMessage"):
            raise Dropped
        return ""

    proxy = Proxy(settings.endpoint or "", meddle)
    ours = settings.model_copy(update={"endpoint_url": HttpUrl(proxy.url)})
    with running_proxy(proxy), running(ours) as program:
        assert program.post("postmark", _sign(POSTMARK)) == 200
        gone = True
        assert program.post("postmark", _sign(POSTMARK)) == 503
        assert program.request("GET", "/health", WebhookRequest({}, b"")).status == 200


def test_a_request_that_began_before_the_stop_gets_its_answer(
    settings: Settings, bodies: Callable[[], list[str]]
) -> None:
    request = _sign(POSTMARK)
    with running(settings) as program, socket.create_connection(("127.0.0.1", program.port)) as connection:
        head = f"POST /webhooks/postmark HTTP/1.1\r\nHost: x\r\nContent-Length: {len(request.body)}\r\n"
        head += f"Authorization: {request.headers['authorization']}\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        program.process.send_signal(signal.SIGTERM)
        connection.sendall(request.body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert program.process.wait(20) == 0
    assert len(bodies()) == 1


def test_a_huge_body_is_refused_before_it_is_read(settings: Settings) -> None:
    with running(settings) as program, socket.create_connection(("127.0.0.1", program.port), timeout=20) as connection:
        connection.sendall(b"POST /webhooks/postmark HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_the_memory_for_unfinished_requests_is_bounded() -> None:
    in_progress, first, second = InProgress(), object(), object()
    in_progress.add(first)
    in_progress.add(second)
    assert in_progress.may_keep(first, READING_BYTES - 1)
    assert not in_progress.may_keep(second, 2)
    assert in_progress.may_keep(second, 1)
    in_progress.discard(first)
    in_progress.discard(first)
    assert not in_progress.may_keep(first, 1), "its answer was given"
    assert in_progress.may_keep(second, READING_BYTES - 1)
    in_progress.discard(second)
    in_progress.add(first)
    assert in_progress.may_keep(first, READING_BYTES)


def test_a_request_for_which_there_is_no_memory_is_to_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    request = _sign(POSTMARK)
    monkeypatch.setattr("commands.webhooks.READING_BYTES", len(request.body) - 1)

    async def post() -> bytes:
        serving = asyncio.create_task(serve(WebhookReceiver(webhook_settings()), None, sockets))  # type: ignore[arg-type]  # no SQS
        reader, writer = await asyncio.open_connection("127.0.0.1", sockets[0].getsockname()[1])
        head = f"POST /webhooks/postmark HTTP/1.1\r\nHost: x\r\nContent-Length: {len(request.body)}\r\n\r\n"
        writer.write(head.encode() + request.body)
        status = await reader.readline()
        writer.close()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        return status

    sockets = bind_sockets(0, "127.0.0.1")
    assert asyncio.run(post()).startswith(b"HTTP/1.1 503 ")


def test_no_message_waits_for_ever_if_it_comes_just_when_the_last_sender_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.webhooks.SENDERS", 1)
    late: list[asyncio.Task[bool]] = []

    class Codes(list[str]):
        """Makes a request arrive while the event loop reads the codes, in the sender's last step."""

        def __iter__(self) -> Iterator[str]:
            with suppress(RuntimeError):  # a thread without an event loop reads them too
                loop = asyncio.get_running_loop()
                late or late.append(loop.create_task(senders.send(("late",))))
            return super().__iter__()

    class Queue:
        def send_batch(self, batch: list[dict[str, str]]) -> list[str]:
            return Codes([""] * len(batch))

    async def both() -> None:
        nonlocal senders
        with ThreadPoolExecutor(1) as pool:
            senders = Senders(Queue(), pool)  # type: ignore[arg-type]  # a double
            assert await senders.send(("first",))
            assert await asyncio.wait_for(late[0], 5)

    senders: Senders
    asyncio.run(both())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "EMAIL_POSTMARK_WEBHOOK_SECRET"),
        ({"postal_webhook_key": SVIX_KEY}, "EMAIL_POSTAL_WEBHOOK_KEY: should be a public RSA key"),
        ({"postal_webhook_key": public(ec_key())}, "EMAIL_POSTAL_WEBHOOK_KEY: should be a public RSA key"),
    ],
)
def test_a_start_without_a_usable_secret_says_what_is_missing(given: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        WebhookReceiver(WebhookSettings.read(**given))


def test_the_services_with_a_secret_are_named() -> None:
    assert WebhookReceiver(WebhookSettings.read(postmark_webhook_secret=LOGIN)).providers == ["postmark"]
    assert len(WebhookReceiver(webhook_settings()).providers) == len(ONE_EACH)


LOAD_SECONDS = 10
LOAD_RATE = int(os.environ.get("WEBHOOK_LOAD_RATE", "200"))  # 1000 on a machine that nobody else uses


@pytest.mark.slow
def test_no_webhook_is_lost_under_load(settings: Settings) -> None:
    with running(settings) as program:
        arguments = [sys.executable, "-m", "tests.support.webhook_load", str(program.port), str(LOAD_RATE)]
        printed = subprocess.check_output([*arguments, str(LOAD_SECONDS)], text=True, timeout=120)
        status = Path(f"/proc/{program.process.pid}/status").read_text()
    figures = json.loads(printed)
    sys.stdout.write(f"{figures} {re.findall(r'VmHWM:.*', status)}\n")
    assert figures["statuses"] == {"200": LOAD_RATE * LOAD_SECONDS}
    queue = find_queue(client("sqs", settings), settings.callbacks_queue)
    assert queue.depths().ready == LOAD_RATE * LOAD_SECONDS
