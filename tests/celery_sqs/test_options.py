"""The transport options in docs/celery_sqs.md that no other test covers do what that page says."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import kombu
import pytest

from tests.celery_sqs.conftest import watching
from tests.support.proxy import Proxy, _Forward, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.celery_sqs.conftest import Queues

TOLERANCE_SECONDS = 0.1  # the clocks of the emulator and the test differ


@pytest.mark.slow
def test_events_leave_together_when_their_window_is_over(queues: Queues, wait_until: Callable[..., None]) -> None:
    sent: list[tuple[float, bytes]] = []
    seen: list[dict[str, Any]] = []

    def record(service: str, action: str, body: bytes) -> str:
        if action == "SendMessageBatch":
            sent.append((time.monotonic(), body))
        return ""

    with running(Proxy(queues.endpoint, record)) as proxy:
        queues.app.conf.broker_url = queues.broker_url(proxy.url)
        queues.app.conf.broker_transport_options |= {"events_window": 1.5}
        with watching(queues, seen), queues.app.events.default_dispatcher() as dispatcher:
            began = time.monotonic()
            for number in range(3):
                dispatcher.send("task-received", uuid=f"task-{number}")
            wait_until(lambda: len([each for each in seen if each["type"] == "task-received"]) == 3)
        with_events = [(at, body) for at, body in sent if b"task-received" in body]
    assert len(with_events) == 1
    at, body = with_events[0]
    assert len(json.loads(body)["Entries"]) == 1
    assert at - began > 1.5 - TOLERANCE_SECONDS  # the default is 1


@pytest.mark.slow
def test_a_worker_sends_the_chosen_events_alone(queues: Queues, wait_until: Callable[..., None]) -> None:
    seen: list[dict[str, Any]] = []
    with watching(queues, seen):
        options = {"event_types": ["task-failed", "worker-offline"], "control_queue_prefix": "celery-control-"}
        queues.start("-P", "threads", SEND_EVENTS="1", TRANSPORT_OPTIONS=json.dumps(options))
        queues.send("note", "ran")
        queues.send("boom")
        wait_until(lambda: [each for each in seen if each["type"] == "task-failed"])
        queues.stop()
        wait_until(lambda: [each for each in seen if each["type"] == "worker-offline"])
    assert queues.lines()["ran"]
    assert [each["type"] for each in seen] == ["task-failed", "worker-offline"]


@contextmanager
def connected(queues: Queues, endpoint: str, **options: Any) -> Iterator[kombu.Connection]:
    common = {"region": "us-east-1", "is_secure": False, "wait_time_seconds": 1}
    url, transport = queues.broker_url(endpoint), "celery_sqs.transport:Transport"
    with kombu.Connection(url, transport=transport, transport_options=common | options) as connection:
        yield connection


@contextmanager
def consuming(connection: kombu.Connection, take: Callable[[kombu.Message], None], *names: str) -> Iterator[None]:
    declared = [kombu.Queue(name, no_declare=True) for name in names]
    with connection.Consumer(declared, on_message=take, auto_declare=False, accept=["json"]):
        yield


def publish(connection: kombu.Connection, queue: str, task: str) -> None:
    connection.Producer().publish([], routing_key=queue, headers={"task": task})


@pytest.mark.slow
def test_a_rejected_task_of_the_backoff_policy_comes_again_after_its_seconds(queues: Queues) -> None:
    policy = {1: 1, 2: 2}
    changes: list[int] = []
    taken: list[float] = []

    def record(service: str, action: str, body: bytes) -> str:
        if action == "ChangeMessageVisibility":
            changes.append(json.loads(body)["VisibilityTimeout"])
        return ""

    def reject(message: kombu.Message) -> None:
        taken.append(time.monotonic())
        message.ack() if len(taken) == 3 else message.reject()

    predefined = {"tasks": {"url": queues.url("tasks"), "backoff_policy": policy, "backoff_tasks": ["shy"]}}
    with (
        running(Proxy(queues.endpoint, record)) as proxy,
        connected(queues, proxy.url, predefined_queues=predefined) as connection,
    ):
        publish(connection, "tasks", "shy")
        with consuming(connection, reject, "tasks"):
            while len(taken) < 3:
                connection.drain_events(timeout=30)
    assert changes == [1, 2]
    first, second, third = taken
    assert second - first > 1 - TOLERANCE_SECONDS
    assert third - second > 2 - TOLERANCE_SECONDS
    assert queues.dead_letters() == []


def test_another_task_that_is_rejected_is_a_dead_letter_whatever_the_backoff_policy(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    predefined = {"tasks": {"url": queues.url("tasks"), "backoff_policy": {1: 600}, "backoff_tasks": ["shy"]}}
    with connected(queues, queues.endpoint, predefined_queues=predefined) as connection:
        publish(connection, "tasks", "bold")
        with consuming(connection, kombu.Message.reject, "tasks"):
            connection.drain_events(timeout=30)
        wait_until(lambda: queues.counts() == (0, 0, 0))
    assert [letter["Reason"] for letter in queues.dead_letters()] == ["Rejected"]


class Recorder(Proxy):
    """Records SQS's requests and the credentials that STS issues: each is an access key with its session token."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, self._record)
        self.RequestHandlerClass = _Recording
        self.headers = threading.local()
        self.issued: list[tuple[str, str]] = []
        self.asked: list[tuple[str, str, tuple[str, str]]] = []  # queue, action, credentials

    def _record(self, service: str, action: str, body: bytes) -> str:
        if service == "AmazonSQS":
            headers = self.headers.of_this_thread
            key = re.search("Credential=([^/]+)/", headers["Authorization"])
            assert key
            name = json.loads(body)["QueueUrl"].rpartition("-")[2]
            self.asked.append((name, action, (key[1], headers.get("X-Amz-Security-Token", ""))))
        return ""

    def credentials(self, queue: str) -> list[tuple[str, str]]:
        """Return the credentials that were used for the queue, in the order of their first request."""
        return list(dict.fromkeys(credentials for name, _, credentials in self.asked if name == queue))


class _Recording(_Forward):
    server: Recorder

    def _forward(self, service: str, action: str) -> None:
        self.server.headers.of_this_thread = self.headers
        super()._forward(service, action)

    def _answer(self, status: int, headers: Any, content: bytes) -> None:
        found = re.search(
            "<AccessKeyId>(.+)</AccessKeyId>.*<SessionToken>(.+)</SessionToken>", content.decode(), re.DOTALL
        )
        if found:
            self.server.issued.append((found[1], found[2]))
        super()._answer(status, headers, content)


@pytest.fixture
def recorder(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with running(Recorder(queues.endpoint)) as recorder:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", recorder.url)
        yield recorder


def assuming_a_role(queues: Queues, **options: Any) -> dict[str, Any]:
    return {
        "predefined_queues": {name: {"url": queues.url(name)} for name in ("tasks", "raw")},
        "sts_role_arn": "arn:aws:iam::000000000000:role/worker",
        "control_queue_prefix": "",  # control queues are not predefined, and would need credentials of their own
        **options,
    }


def test_each_queue_is_asked_by_the_credentials_of_its_own_session_of_the_role(
    queues: Queues, recorder: Recorder, wait_until: Callable[..., None]
) -> None:
    taken: list[kombu.Message] = []
    with connected(queues, recorder.url, **assuming_a_role(queues)) as connection:
        for name in ("tasks", "raw"):
            publish(connection, name, "any")
        with consuming(connection, taken.append, "tasks", "raw"):
            while len(taken) < 2:
                connection.drain_events(timeout=30)
            for message in taken:
                message.ack()
            for name in ("tasks", "raw"):
                wait_until(lambda name=name: queues.counts(name) == (0, 0, 0))
    (of_tasks,), (of_raw,) = (recorder.credentials(name) for name in ("tasks", "raw"))
    assert of_tasks != of_raw
    assert {of_tasks, of_raw} == set(recorder.issued)
    for name in ("tasks", "raw"):
        actions = {action for queue, action, _ in recorder.asked if queue == name}
        assert actions >= {"SendMessage", "ReceiveMessage", "DeleteMessageBatch"}


@pytest.mark.slow
def test_each_queue_takes_a_session_anew_when_its_token_is_about_to_expire(
    queues: Queues, recorder: Recorder, wait_until: Callable[..., None]
) -> None:
    options = assuming_a_role(queues, sts_token_timeout=900, sts_token_buffer_time=899)
    with connected(queues, recorder.url, **options) as connection, consuming(connection, print, "tasks", "raw"):
        with suppress(TimeoutError):
            connection.drain_events(timeout=0)  # this starts polling
        wait_until(lambda: all(len(recorder.credentials(name)) > 2 for name in ("tasks", "raw")))
    assert not set(recorder.credentials("tasks")) & set(recorder.credentials("raw"))
    assert set(recorder.credentials("tasks") + recorder.credentials("raw")) <= set(recorder.issued)
