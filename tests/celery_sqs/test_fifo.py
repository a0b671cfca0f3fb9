"""On a FIFO queue, a waiting message keeps its place, and SQS is never asked for a delay that it would refuse."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import kombu
import pytest
from botocore.exceptions import ClientError

from celery_sqs import delays
from celery_sqs.admission import Admission
from celery_sqs.delays import TOLERANCE_SECONDS
from celery_sqs.held_messages import held_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_sqs.held_message import HeldMessage
    from tests.celery_sqs.conftest import Queues

LINE = ("-Q", "line.fifo", "-P", "threads", "-c", "1")
POOLS = [
    pytest.param(
        ("-Q", "line.fifo", "-P", pool, "-c", "1"), id=pool, marks=() if pool == "threads" else pytest.mark.slow
    )
    for pool in ("threads", "gevent", "prefork")
]


@pytest.fixture(autouse=True)
def line(queues: Queues) -> str:
    """Return the URL of a FIFO queue."""
    return queues.create_queue("line.fifo", FifoQueue="true")


def test_the_emulator_refuses_the_delay_of_a_single_message_as_aws_does(queues: Queues, line: str) -> None:
    message = {"MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "1", "DelaySeconds": 1}
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        queues.sqs.send_message(QueueUrl=line, **message)  # type: ignore[arg-type]  # every value has the right type
    answer = queues.sqs.send_message_batch(QueueUrl=line, Entries=[{"Id": "1", **message}])  # type: ignore[typeddict-item]  # every value has the right type
    assert [failure["Code"] for failure in answer["Failed"]] == ["InvalidParameterValue"]


def ran(queues: Queues) -> list[str]:
    """Return the lines of the journal in order."""
    return queues.journal.read_text().splitlines()


@contextmanager
def consuming(queues: Queues, taken: list[kombu.Message]) -> Iterator[kombu.Connection]:
    """Consume the queue in this process, and acknowledge each message."""
    transport, options = "celery_sqs.transport:Transport", queues.app.conf.broker_transport_options
    options |= {"wait_time_seconds": 1, "visibility_timeout": 60}
    with kombu.Connection(queues.broker_url(), transport=transport, transport_options=options) as connection:

        def take(message: kombu.Message) -> None:
            taken.append(message)
            message.ack()

        with connection.Consumer(kombu.Queue("line.fifo", no_declare=True), on_message=take, auto_declare=False):
            yield connection


def texts(taken: list[kombu.Message]) -> list[str]:
    """Return the text that each message's task would write to the journal."""
    return [message.payload[0][0] for message in taken]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["countdown", *(pytest.param(name, marks=pytest.mark.slow) for name in ("DelaySeconds", "delay_seconds"))]
)
def test_a_message_that_is_to_wait_keeps_its_place_in_its_group_and_holds_up_no_other_group(
    queues: Queues, wait_until: Callable[..., None], name: str
) -> None:
    sent_at = time.monotonic()
    queues.send("note", "waits", queue="line.fifo", MessageGroupId="one", **{name: 6})
    for number in range(3):
        queues.send("note", f"follows {number}", queue="line.fifo", MessageGroupId="one")
    queues.send("note", "other", queue="line.fifo", MessageGroupId="two")
    taken: list[kombu.Message] = []
    with consuming(queues, taken) as connection:
        connection.drain_events(timeout=30)
        assert texts(taken) == ["other"]
        wait_until(lambda: not held_messages().held(), what="nobody holds what waits, so nobody extends its time-out")
        for _ in range(4):
            connection.drain_events(timeout=30)
    assert time.monotonic() - sent_at > 6 - TOLERANCE_SECONDS
    assert texts(taken) == ["other", "waits", "follows 0", "follows 1", "follows 2"]
    wait_until(lambda: queues.counts("line.fifo") == (0, 0, 0))


@pytest.mark.slow
def test_a_wait_longer_than_a_message_may_be_invisible_takes_several_receives(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delays, "MAX_INVISIBLE_SECONDS", 1)
    queues.send("note", "waits", queue="line.fifo", countdown=4)
    taken: list[kombu.Message] = []
    with consuming(queues, taken) as connection:
        connection.drain_events(timeout=30)
    assert texts(taken) == ["waits"]
    assert int(taken[0].delivery_info["sqs_message"]["Attributes"]["ApproximateReceiveCount"]) > 2


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_a_task_retries_after_its_countdown(
    queues: Queues, wait_until: Callable[..., None], pool: tuple[str, ...]
) -> None:
    queues.send("again", "a", 3, queue="line.fifo", MessageGroupId="one")
    queues.start(*pool)
    wait_until(lambda: ran(queues) == ["a 0", "a 1"])
    wait_until(lambda: queues.counts("line.fifo") == (0, 0, 0))
    assert queues.dead_letters("line.fifo") == []


def test_a_message_that_is_given_back_keeps_its_place_in_its_group(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    for name in ("one", "two", "three"):
        queues.send("give_back", name, queue="line.fifo", MessageGroupId="g")
    queues.send("note", "other", queue="line.fifo", MessageGroupId="other")
    queues.start(*LINE)
    wait_until(lambda: queues.counts("line.fifo") == (0, 0, 0))
    names = [line.split()[0] for line in ran(queues) if not line.startswith("other")]
    assert names[:2] == ["one", "one"], "it came again before what follows it"
    assert list(dict.fromkeys(names)) == ["one", "two", "three"]


def test_what_follows_in_the_same_receive_is_given_back_even_if_it_was_not_looked_at_yet(
    queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    examine = Admission._examine

    def give_followers_back(self: Admission, queue: str, held: HeldMessage, waiting: set[str]) -> object:
        payload = examine(self, queue, held, waiting)
        if held.receive_count == 1:  # as if its task were quick, and asked for it to be received again
            assert held.start()
            self._channel.receiver.release(held.queue, held.group)
        return payload

    monkeypatch.setattr(Admission, "_examine", give_followers_back)
    for name in ("one", "two", "three"):
        queues.send("note", name, queue="line.fifo", MessageGroupId="g")
    taken: list[kombu.Message] = []
    with consuming(queues, taken) as connection:
        for _ in range(3):
            connection.drain_events(timeout=30)
    assert texts(taken) == ["one", "two", "three"]
    counts = [message.delivery_info["sqs_message"]["Attributes"]["ApproximateReceiveCount"] for message in taken]
    assert counts == ["1", "2", "2"]


@pytest.mark.parametrize("concurrency", ["1", "2"])
def test_a_worker_warns_of_a_concurrency_above_one(
    queues: Queues, wait_until: Callable[..., None], concurrency: str
) -> None:
    queues.send("note", "x", queue="line.fifo")
    queues.start("-Q", "line.fifo", "-P", "threads", "-c", concurrency)
    wait_until(lambda: ran(queues) == ["x"])
    warning = "line.fifo: with a concurrency of 2, tasks of one message group run in parallel"
    assert (warning in queues.log()) is (concurrency == "2")


def test_a_worker_without_fifo_queues_warns_of_nothing(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("note", "x")
    queues.start("-Q", "tasks", "-P", "threads", "-c", "2")
    wait_until(lambda: ran(queues) == ["x"])
    assert "message group" not in queues.log()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "tasks_queue"),
    [
        ("raw.fifo", "tasks"),
        pytest.param("raw", "tasks", marks=pytest.mark.slow),
        pytest.param("raw", "line.fifo", marks=pytest.mark.slow),
        pytest.param("raw.fifo", "line.fifo", marks=pytest.mark.slow),
    ],
)
def test_a_message_group_survives_every_hop(
    queues: Queues, wait_until: Callable[..., None], raw: str, tasks_queue: str
) -> None:
    fifo = {"MessageDeduplicationId": "1"} if raw == "raw.fifo" else {}
    url = queues.create_queue(raw, FifoQueue="true") if fifo else queues.url(raw)
    options = {"queue": tasks_queue}
    queues.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(options), MessageGroupId="customer-7", **fifo)
    queues.start(
        *("-Q", f"{raw},{tasks_queue}", "-P", "threads", "-c", "1"),
        TRANSPORT_OPTIONS=json.dumps({"raw_queues": {raw: "first"}}),
        MAX_DELAY_SECONDS="1",  # the retry is delayed several times
    )
    letters: list[dict[str, str]] = []
    wait_until(lambda: letters.extend(queues.dead_letters(tasks_queue)) or letters)
    assert ran(queues) == [
        f"first 0 {raw} customer-7",
        f"second 0 {tasks_queue} customer-7",
        f"second 1 {tasks_queue} customer-7",
        f"third 0 {tasks_queue} customer-7",
    ]
    assert [(letter["Reason"], letter["MessageGroupId"]) for letter in letters] == [("TheEnd", "customer-7")]


@pytest.mark.slow
def test_a_message_group_survives_a_retry_in_another_process(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("second", 1, queue="tasks", MessageGroupId="customer-7")
    queues.start("-Q", "tasks", "-P", "prefork", "-c", "1")
    wait_until(lambda: ran(queues) == ["second 0 tasks customer-7", "second 1 tasks customer-7"])


@pytest.mark.parametrize("group", ["another", pytest.param(None, marks=pytest.mark.slow)])
def test_a_publisher_that_names_a_message_group_is_obeyed(
    queues: Queues, wait_until: Callable[..., None], group: str | None
) -> None:
    options = {"queue": "tasks", "MessageGroupId": group}
    queues.sqs.send_message(QueueUrl=queues.url("raw"), MessageBody=json.dumps(options), MessageGroupId="customer-7")
    queues.start(
        *("-P", "threads", "-c", "1"),
        TRANSPORT_OPTIONS=json.dumps({"raw_queues": {"raw": "first"}}),
        WAIT_TIME_SECONDS="1",
    )
    wait_until(lambda: f"second 0 tasks {group}" in ran(queues))
