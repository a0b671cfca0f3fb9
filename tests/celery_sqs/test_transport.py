"""The transport in real workers, on the emulator. Their app has nothing to do with email."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import threading
import weakref
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import kombu
import pytest
from kombu import Exchange, Queue
from kombu.transport.SQS.exceptions import DoesNotExistQueueException

from celery_sqs import poller as poller_module
from celery_sqs.clients import CLIENT_CONFIG
from celery_sqs.exceptions import MessageTooLarge
from celery_sqs.log import OnceAMinute
from tests.celery_sqs.pools import POOLS, each_pool, threads
from tests.support.proxy import Dropped, Proxy, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.celery_sqs.conftest import Queues

WaitUntil = "Callable[..., None]"


@each_pool
def test_every_task_runs_once_and_every_queue_is_empty_after(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    queues.send("tree", "root", 3, 4)
    queues.start(*pool)
    wait_until(lambda: len(queues.lines()) == 1 + 3 + 12)
    queues.stop()
    assert set(queues.lines().values()) == {1}
    assert queues.counts() == (0, 0, 0)
    assert queues.dead_letters() == []


@pytest.mark.slow
@each_pool
def test_on_sigterm_what_runs_finishes_and_the_rest_is_visible_again_at_once(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    for number in range(20):
        queues.send("nap", f"n{number}", 6)
    worker = queues.start(*pool)
    wait_until(lambda: queues.counts()[1] > len(queues.lines()) > 0, what="some run, some wait in the prefetch")
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: queues.counts()[1] <= len(queues.lines()))
    running = queues.lines()
    assert not any(line.startswith("end") for line in running), "the rest came back while the first still ran"
    assert worker.wait(60) == 0
    lines = queues.lines()
    started = [line.split()[1] for line in lines if line.startswith("start")]
    assert lines == {line: 1 for name in started for line in (f"start {name}", f"end {name}")}
    assert queues.counts() == (20 - len(started), 0, 0)
    assert "Traceback" not in queues.log()


@pytest.mark.slow
@pytest.mark.parametrize("pool", [POOLS["prefork"]], ids=["prefork"])
def test_on_sigquit_what_runs_is_visible_again_at_once(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    for number in range(6):
        queues.send("nap", f"n{number}", 60)
    worker = queues.start(*pool)
    wait_until(lambda: len(queues.lines()) == 2)
    worker.send_signal(signal.SIGQUIT)
    worker.wait(60)
    assert queues.counts() == (6, 0, 0)


@pytest.mark.slow
def test_on_sigquit_threads_finish_what_they_run_and_the_rest_is_visible_at_once(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    done = queues.folder / "done"
    for number in range(8):
        queues.send("hold", f"h{number}", str(done))
    worker = queues.start(*threads)
    wait_until(lambda: len(queues.lines()) == 4)
    worker.send_signal(signal.SIGQUIT)
    wait_until(lambda: queues.counts() == (4, 4, 0))
    done.touch()
    worker.wait(60)
    assert queues.lines() == {f"{word} h{number}": 1 for word in ("start", "end") for number in range(4)}
    assert queues.counts() == (4, 0, 0)
    assert "NotImplementedError" not in queues.log()


@pytest.mark.slow
@each_pool
def test_a_message_stays_invisible_for_as_long_as_it_is_held(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    for number in range(5):
        queues.send("nap", f"n{number}", 5)
    queues.start(*pool, "--prefetch-multiplier", "10", VISIBILITY_TIMEOUT="3")
    wait_until(lambda: sum(line.startswith("end") for line in queues.lines()) == 5)
    queues.stop()
    assert set(queues.lines().values()) == {1}
    assert queues.counts() == (0, 0, 0)


def test_a_reject_takes_its_reason_to_the_dead_letters(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("refuse")
    queues.send("boom")
    queues.send("oversize")
    queues.start(*threads)
    letters: list[dict[str, str]] = []
    wait_until(lambda: letters.extend(queues.dead_letters()) or len(letters) == 3)
    reasons = {letter["Reason"]: letter["Detail"] for letter in letters}
    assert reasons.keys() == {"NotWanted", "ValueError", "MessageTooLarge"}
    assert reasons["NotWanted"] == "this task refuses everything"
    assert "private content" not in reasons["ValueError"]
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_without_a_dead_letter_queue_a_reject_deletes_and_says_what(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    queues.sqs.set_queue_attributes(QueueUrl=queues.url("tasks"), Attributes={"RedrivePolicy": ""})
    queues.send("refuse")
    queues.start(*threads)
    wait_until(lambda: "which has no dead-letter queue: NotWanted (this task refuses everything)" in queues.log())
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_a_raw_body_becomes_the_argument_of_its_queues_task(queues: Queues, wait_until: Callable[..., None]) -> None:
    for body in ("hello", '{"task": "boom", "id": "x"}', '[["x"], {}, {}]'):
        queues.sqs.send_message(QueueUrl=queues.url("raw"), MessageBody=body)
    queues.start(*threads)
    wait_until(lambda: queues.lines().keys() == {"hello", '{"task": "boom", "id": "x"}', '[["x"], {}, {}]'})
    wait_until(lambda: queues.counts("raw") == (0, 0, 0))


@pytest.mark.slow
def test_a_retry_waits_in_sqs_and_not_in_the_worker(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("again", "a", 3)
    queues.start(*threads)
    wait_until(lambda: queues.counts() == (0, 0, 1), what="one message, delayed")
    assert queues.lines() == {"a 0": 1}
    wait_until(lambda: queues.lines() == {"a 0": 1, "a 1": 1})


@pytest.mark.slow
def test_a_countdown_longer_than_sqs_takes_hops(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.start(*threads, MAX_DELAY_SECONDS="1")
    queues.send("again", "a", 4)
    wait_until(lambda: queues.lines() == {"a 0": 1, "a 1": 1})
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_a_task_that_is_acknowledged_early_never_runs_twice(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("early", "e", 60)
    worker = queues.start(*threads, VISIBILITY_TIMEOUT="2")
    wait_until(lambda: queues.lines() == {"start e": 1})
    assert queues.counts() == (0, 0, 0), "it was deleted before it ran"
    worker.kill()


@pytest.mark.parametrize(
    "pool",
    [POOLS["threads"], pytest.param(POOLS["prefork"], marks=pytest.mark.slow)],
    ids=["threads", "prefork"],
)
def test_after_a_lost_connection_it_polls_again(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    """Stock kombu does not: `hub.reset()` clears the event loop, and the new channel is not added to it."""
    flag = queues.folder / "lost"
    queues.start(*pool, LOSE_CONNECTION=str(flag))
    wait_until(flag.exists)
    wait_until(lambda: queues.log().count("Connected to") == 2)
    queues.send("note", "after")
    wait_until(lambda: queues.lines() == {"after": 1})


@pytest.mark.slow
def test_a_queue_that_is_deleted_and_made_anew_is_polled_again(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.start(*threads, WAIT_TIME_SECONDS="1")
    queues.send("note", "before")
    wait_until(lambda: queues.lines() == {"before": 1})
    queues.sqs.delete_queue(QueueUrl=queues.url("tasks"))
    wait_until(lambda: "cannot receive from tasks" in queues.log())
    queues.create_queue("tasks")
    queues.send("note", "after")
    wait_until(lambda: queues.lines().keys() == {"before", "after"})
    assert queues.log().count("cannot receive from tasks") == 1, "it is said once a minute"


def test_a_publish_outside_of_a_task_is_confirmed_when_it_returns(queues: Queues) -> None:
    for number in range(3):
        queues.send("note", f"{number}")
        assert queues.counts() == (number + 1, 0, 0)


def test_a_message_that_is_too_large_is_refused_with_both_sizes(queues: Queues) -> None:
    with pytest.raises(MessageTooLarge, match=r"has [12]\d{6,} bytes .* accepts at most 1048576"):
        queues.send("note", "x" * 1_048_576)
    assert queues.counts() == (0, 0, 0)


@pytest.mark.slow
def test_whoever_calls_a_worker_leaves_its_liveness_file_alone(queues: Queues, wait_until: Callable[..., None]) -> None:
    """`celery status` in a worker's container has the worker's environment."""
    file = queues.folder / "liveness"
    queues.start("-P", "threads", LIVENESS_FILE=str(file))
    wait_until(file.exists)
    queues.app.conf.broker_transport_options["liveness_file"] = str(file)
    wait_until(lambda: queues.app.control.ping(timeout=5))
    with queues.app.connection_for_read() as connection:
        queues.app.control.inspect(timeout=1, connection=connection).ping()
    assert "tasks" in file.read_text()


def test_the_probe_says_whether_the_worker_receives(queues: Queues, wait_until: Callable[..., None]) -> None:
    file = queues.folder / "alive"
    probe = [sys.executable, "-m", "celery_sqs.liveness", str(file)]
    assert subprocess.run(probe, check=False, capture_output=True).returncode == 1
    worker = queues.start(*threads, LIVENESS_FILE=str(file))
    wait_until(lambda: subprocess.run(probe, check=False, capture_output=True).stdout == b"alive\n")
    worker.kill()
    worker.wait()
    stale = subprocess.run([*probe, "--max-age", "0"], check=False, capture_output=True, text=True)
    assert stale.returncode == 1
    assert "seconds ago" in stale.stdout


def test_a_message_is_got_and_settled_outside_of_a_consumer(queues: Queues, wait_until: Callable[..., None]) -> None:
    for text in ("a", "b"):
        queues.sqs.send_message(QueueUrl=queues.url("raw"), MessageBody=text)
    options = {"raw_queues": {"raw": "note"}, "wait_time_seconds": 1, "visibility_timeout": 60}
    with queues.app.connection_for_read() as connection:
        connection.transport_options |= options
        channel = connection.channel()
        message = channel.basic_get("raw")
        assert message.headers["task"] == "note"
        assert queues.counts("raw") == (1, 1, 0)
        message.ack()
        assert channel.basic_get("raw", no_ack=True)
        wait_until(lambda: queues.counts("raw") == (0, 0, 0))
        assert channel.basic_get("raw") is None


def test_waiting_for_messages_ends_with_the_callers_time_out(queues: Queues) -> None:
    with queues.app.connection_for_read() as connection, pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)


LONGEST_POLL_SECONDS = 20  # the longest that SQS allows


def test_a_half_open_connection_is_noticed_and_no_poll_is_taken_for_one() -> None:
    assert CLIENT_CONFIG["tcp_keepalive"] is True
    assert LONGEST_POLL_SECONDS < CLIENT_CONFIG["read_timeout"] <= 2 * LONGEST_POLL_SECONDS


def test_more_threads_share_a_client_than_boto3_has_connections_for_by_default(queues: Queues) -> None:
    with queues.app.connection_for_read() as connection:
        clients = [connection.channel().sqs() for _ in range(2)]
    assert clients[0] is clients[1], "the channels of a process share it"
    assert clients[0].meta.config.max_pool_connections == CLIENT_CONFIG["max_pool_connections"] > 16


@pytest.fixture
def retries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller_module, "LAST_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(poller_module, "complain", OnceAMinute(poller_module.logger))


@contextmanager
def consuming(queues: Queues, endpoint: str, received: list[str]) -> Iterator[kombu.Connection]:
    """Consume the raw queue through this endpoint, in this process."""
    options = {
        "region": "us-east-1",
        "is_secure": False,
        "queue_name_prefix": queues.prefix,
        "raw_queues": {"raw": "note"},
        "wait_time_seconds": 0,
        "client-config": {"read_timeout": 1, "retries": {"total_max_attempts": 1}},
    }
    url, transport = queues.broker_url(endpoint), "celery_sqs.transport:Transport"
    with kombu.Connection(url, transport=transport, transport_options=options) as connection:

        def take(message: kombu.Message) -> None:
            received.append(message.payload[0][0])
            message.ack()

        with connection.Consumer(kombu.Queue("raw", no_declare=True), on_message=take, auto_declare=False):
            yield connection


@pytest.mark.slow
@pytest.mark.usefixtures("retries_at_once")
def test_a_poll_that_is_never_answered_ends_with_the_read_time_out_and_polling_goes_on(queues: Queues) -> None:
    """This happens if a NAT or a load balancer has forgotten the connection: it is open, but nothing answers."""
    polls: list[str] = []
    over = threading.Event()

    def answer_none_at_first(service: str, action: str, body: bytes) -> str:
        if action == "ReceiveMessage":
            polls.append(action)
            if len(polls) == 1:
                over.wait(60)
        return ""

    received: list[str] = []
    queues.sqs.send_message(QueueUrl=queues.url("raw"), MessageBody="hello")
    with running(Proxy(queues.endpoint, answer_none_at_first)) as proxy:
        with consuming(queues, proxy.url, received) as connection:
            connection.drain_events(timeout=30)
            assert received == ["hello"]
        over.set()


@pytest.mark.usefixtures("retries_at_once")
def test_expired_credentials_are_waited_out_and_said_once_a_minute(
    queues: Queues, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = ["ExpiredToken"] * 3
    received: list[str] = []

    def refuse_at_first(service: str, action: str, body: bytes) -> str:
        return refusals.pop() if action == "ReceiveMessage" and refusals else ""

    queues.sqs.send_message(QueueUrl=queues.url("raw"), MessageBody="hello")
    with (
        running(Proxy(queues.endpoint, refuse_at_first)) as proxy,
        consuming(queues, proxy.url, received) as connection,
    ):
        connection.drain_events(timeout=30)
    assert received == ["hello"]
    said = [record.getMessage() for record in caplog.records if "cannot receive" in record.getMessage()]
    assert len(said) == 1
    assert "ExpiredToken" in said[0]


@pytest.fixture
def assumed(queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A channel that uses the credentials of a role, from the emulator's STS, for its two queues."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", queues.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    options = {
        "region": "us-east-1",
        "is_secure": False,
        "predefined_queues": {name: {"url": queues.url(name)} for name in ("tasks", "raw")},
        "sts_role_arn": "arn:aws:iam::000000000000:role/worker",
    }
    url, transport = queues.broker_url(), "celery_sqs.transport:Transport"
    with kombu.Connection(url, transport=transport, transport_options=options) as connection:
        yield connection.channel()


def expire(channel: Any) -> None:
    for queue in channel._token_expiries:
        channel._token_expiries[queue] = datetime.now(UTC) - timedelta(seconds=1)


def test_after_its_roles_token_has_expired_every_queue_is_asked_with_a_new_one(assumed: Any) -> None:
    queues = [assumed._queue(name) for name in ("tasks", "raw")]

    def tokens() -> list[str]:
        return [queue._client()._request_signer._credentials.token for queue in queues]

    first = tokens()
    assert tokens() == first, "a token is used until it expires"
    expire(assumed)
    assert not set(tokens()) & set(first)
    for queue in queues:
        queue.send({"MessageBody": "hello"})


def test_the_clients_of_expired_tokens_are_kept_by_nobody(assumed: Any) -> None:
    client = weakref.ref(assumed._queue("tasks")._client())
    assert client()
    expire(assumed)
    assumed._queue("tasks")._client()
    gc.collect()
    assert client() is None


def test_a_second_sigterm_during_the_exit_loses_nothing(queues: Queues, wait_until: Callable[..., None]) -> None:
    sends = threading.Event()

    def hold_sends(service: str, action: str, body: bytes) -> str:
        if action == "SendMessageBatch" and not sends.is_set():
            held.append(body)
            sends.wait(60)
        return ""

    held: list[bytes] = []
    queues.send("tree", "root", 1)
    with running(Proxy(queues.endpoint, hold_sends)) as proxy:
        by_sqs = json.dumps({"hand_off": False})
        worker = queues.start(*threads, BROKER_URL=queues.broker_url(proxy.url), TRANSPORT_OPTIONS=by_sqs)
        wait_until(lambda: held, what="the task has run, and its child is on the way")
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: "everything has stopped" in queues.log())
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: queues.log().count("Warm shutdown") == 2)
        assert worker.poll() is None
        sends.set()
        assert worker.wait(60) == 0
    assert queues.lines() == {"root": 1}
    assert queues.counts() == (1, 0, 0), "the child is there, and the parent gone"


@pytest.mark.slow
@each_pool
def test_a_stopped_worker_gives_back_what_its_open_long_poll_receives(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    opened, release = threading.Event(), threading.Event()

    def hold_polls(service: str, action: str, body: bytes) -> str:
        if action == "ReceiveMessage" and json.loads(body)["QueueUrl"] == queues.url("tasks"):
            opened.set()
            release.wait(60)
        return ""

    with running(Proxy(queues.endpoint, hold_polls)) as proxy:
        worker = queues.start(*pool, BROKER_URL=queues.broker_url(proxy.url), WAIT_TIME_SECONDS="1")
        assert opened.wait(60)
        wait_until(lambda: "ready." in queues.log())
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: "everything has stopped" in queues.log())
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(2)
        queues.send("note", "sent while the long poll is open")
        release.set()
        assert worker.wait(60) == 0
    (message,) = queues.sqs.receive_message(
        QueueUrl=queues.url("tasks"), MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )["Messages"]
    assert message["Attributes"] == {"ApproximateReceiveCount": "2"}, "the worker received it, and gave it back"


@pytest.mark.slow
@each_pool
def test_a_naive_eta_is_waited_for_and_the_task_is_told_its_eta(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    queues.start(*pool)
    queues.send("tell", eta=datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=4))
    queues.send("tell", eta=datetime.now(UTC) + timedelta(seconds=4))
    queues.send("tell")
    wait_until(lambda: queues.lines().total() == 3)
    assert queues.lines()["late None redelivered False"] == 1
    for line in queues.lines():
        assert line.split()[1] == "None" or -1 <= int(line.split()[1]) < 60


@pytest.mark.slow
def test_a_redelivered_message_says_so_and_the_first_requeue_is_at_once(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    queues.send("requeue_twice")
    queues.start(*threads)
    wait_until(lambda: queues.lines().total() == 3)
    assert queues.lines() == {"run, redelivered False": 1, "run, redelivered True": 2}
    wait_until(lambda: queues.counts() == (0, 0, 0))


def test_a_small_prefetch_is_shared_by_all_queues_from_the_first_receive(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    asked: list[int] = []

    def note(_: str, action: str, body: bytes) -> str:
        if action == "ReceiveMessage":
            asked.append(json.loads(body)["MaxNumberOfMessages"])
        return ""

    with running(Proxy(queues.endpoint, note)) as proxy:
        queues.app.conf.broker_transport_options["wait_time_seconds"] = 2
        with queues.app.connection_for_read(queues.broker_url(proxy.url)) as connection:
            both = [Queue(name, Exchange(""), name) for name in ("tasks", "raw")]
            consumer = kombu.Consumer(connection, both, prefetch_count=4, callbacks=[print])
            for queue in consumer.queues:
                consumer._basic_consume(queue, no_ack=False, nowait=True)
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.1)
            wait_until(lambda: len(asked) >= 2)
            assert asked[:2] == [2, 2]
            consumer.cancel()


def test_a_message_that_the_channel_cannot_examine_is_a_dead_letter_and_the_next_one_arrives(
    queues: Queues, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    """The test stands for any error that a message may still cause."""

    def defective(headers: dict[str, Any]) -> bool:
        if headers.get("poison"):
            raise ZeroDivisionError("private content")
        return False

    monkeypatch.setattr("celery_sqs.delays.is_early", defective)
    received: list[str] = []
    queues.send("note", "poison", headers={"poison": True})
    queues.send("note", "wholesome")
    with queues.app.connection_for_read() as connection:
        queue = Queue("tasks", Exchange(""), "tasks")

        def take(body: Any, message: Any) -> None:
            received.append(body[0][0])
            message.ack()

        with kombu.Consumer(connection, [queue], callbacks=[take], accept=["json"]):
            connection.drain_events(timeout=30)
        letters: list[dict[str, Any]] = []
        wait_until(lambda: letters.extend(queues.dead_letters()) or letters)
    assert received == ["wholesome"]
    assert letters[0]["Reason"] == "ZeroDivisionError"
    assert "private content" not in letters[0]["Detail"]


def test_a_queue_that_was_deleted_is_forgotten_under_the_name_it_had(queues: Queues) -> None:
    with queues.app.connection_for_write() as connection:
        channel = connection.default_channel
        queue = Queue("short-lived", Exchange("short-lived"), "short-lived")(channel)
        queue.declare()
        queue.delete()
        with pytest.raises(DoesNotExistQueueException):
            channel._resolve_queue_url("short-lived")


def test_a_publish_is_tried_again_after_each_lost_connection(queues: Queues) -> None:
    """If kombu does not know which errors are recoverable, it retries once, and not as often as its policy says."""
    asked: list[str] = []

    def lose_the_first_and_the_third(_: str, action: str, __: bytes) -> str:
        if action == "GetQueueUrl":
            asked.append(action)
            if len(asked) in (1, 3):
                raise Dropped
        return ""

    with running(Proxy(queues.endpoint, lose_the_first_and_the_third)) as proxy:
        queues.app.conf.broker_url = queues.broker_url(proxy.url)
        queues.app.conf.broker_transport_options["client-config"] = {"retries": {"total_max_attempts": 1}}
        queues.send("note", "hello")
    assert len(asked) > 3
    assert queues.counts() == (1, 0, 0)
