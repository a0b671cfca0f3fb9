"""Remote control and events work with real workers as they do on RabbitMQ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from celery_sqs.control_queues import ControlQueues
from celery_sqs.sqs.leased_queues import LEASE_TAG, reap
from tests.celery_sqs.conftest import Queues
from tests.support.proxy import Dropped, Proxy, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

CANNOT_RESIZE = "cannot grow or shrink"
CANNOT_STOP = "cannot stop a running task"
INSPECTIONS = ("ping", "active", "reserved", "scheduled", "stats", "registered", "active_queues", "conf")


class Cluster:
    """Starts workers by name, and sends them the commands of a test."""

    def __init__(self, queues: Queues) -> None:
        self.queues = queues
        self.control = queues.app.control

    def start(self, *names: str, pool: str = "threads", concurrency: int = 2, **environment: str) -> None:
        for name in names:
            self.queues.start(
                "-n", f"{name}@test", "-P", pool, "-c", str(concurrency), "--prefetch-multiplier", "40", **environment
            )
        wanted = {f"{name}@test" for name in names}
        deadline = time.monotonic() + 60
        while not wanted <= self.ask("ping", limit=len(names)).keys():
            assert time.monotonic() < deadline, self.queues.log()

    def ask(self, question: str, *arguments: Any, timeout: float = 10, **options: Any) -> dict[str, Any]:
        """Return what each worker answers. Returns as soon as `limit` workers have answered."""
        return getattr(self.control.inspect(timeout=timeout, **options), question)(*arguments) or {}

    def tell(self, command: str, *workers: str, **arguments: Any) -> dict[str, Any]:
        replies = self.control.broadcast(
            command, arguments=arguments, destination=[f"{w}@test" for w in workers], reply=True, timeout=10
        )
        return {name: answer for reply in replies for name, answer in reply.items()}

    def control_queues(self, exchange: str = "") -> list[str]:
        prefix = f"{self.queues.prefix}celery-control-{exchange}"
        return self.queues.sqs.list_queues(QueueNamePrefix=prefix).get("QueueUrls", [])


@pytest.fixture
def cluster(queues: Queues) -> Cluster:
    return Cluster(queues)


@pytest.fixture(scope="module")
def three(emulator: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Start three workers with the threads pool."""
    queues = Queues(emulator, tmp_path_factory.mktemp("three"))
    cluster = Cluster(queues)
    cluster.start("one", "two", "three")
    yield cluster
    queues.close()


THREE = {"one@test", "two@test", "three@test"}


@pytest.mark.parametrize("question", INSPECTIONS)
def test_every_worker_answers(three: Cluster, question: str) -> None:
    assert three.ask(question, limit=3).keys() == THREE


def test_only_the_destination_answers(three: Cluster) -> None:
    assert three.ask("ping", destination=["two@test"]) == {"two@test": {"ok": "pong"}}


def test_a_question_to_nobody_ends_with_its_time_out_and_not_with_a_long_poll(three: Cluster) -> None:
    began = time.monotonic()
    assert three.ask("ping", destination=["nobody@test"], timeout=0.5) == {}
    assert time.monotonic() - began < 15, "the test's client polls for 15 s"


def test_a_thread_has_one_reply_queue_for_all_its_calls(three: Cluster) -> None:
    before = three.control_queues("reply")
    for _ in range(3):
        three.ask("ping", limit=3)
    assert len(three.control_queues("reply")) == max(1, len(before))


def test_stats_tell_of_each_queues_last_receive_and_of_no_credentials(
    three: Cluster, wait_until: Callable[..., None]
) -> None:
    def stats() -> dict[str, Any]:
        answer: dict[str, Any] = three.ask("stats", destination=["one@test"])["one@test"]
        return answer

    began = time.time() - 1
    assert {"tasks", "raw"} <= stats()["receiving"].keys()
    three.queues.send("note", "wakes the polls")
    wait_until(lambda: stats()["receiving"]["tasks"]["last_receive_at"] > began - 60)
    assert "userid" not in stats()["broker"]
    assert stats()["broker"]["transport"] == "celery_sqs.transport:Transport"


def test_a_worker_consumes_what_it_is_told_to(three: Cluster, wait_until: Callable[..., None]) -> None:
    three.queues.create_queue("more")
    assert "ok" in three.tell("add_consumer", "one", queue="more")["one@test"]
    three.queues.app.send_task("note", ["from more"], queue="more")
    wait_until(lambda: three.queues.lines()["from more"])
    assert "ok" in three.tell("cancel_consumer", "one", queue="more")["one@test"]
    (queues,) = three.ask("active_queues", destination=["one@test"]).values()
    assert "more" not in {queue["name"] for queue in queues}


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        ("pool_grow", {"n": 1}, CANNOT_RESIZE),
        ("pool_shrink", {"n": 1}, CANNOT_RESIZE),
        ("autoscale", {"max": 3, "min": 1}, CANNOT_RESIZE),
        ("time_limit", {"task_name": "nap", "soft": 1.0, "hard": 2.0}, CANNOT_STOP),
        ("revoke", {"task_id": "some-task", "terminate": True}, CANNOT_STOP),
    ],
)
def test_threads_say_what_they_cannot_do(
    three: Cluster, command: str, arguments: dict[str, Any], sentence: str
) -> None:
    assert sentence in three.tell(command, "two", **arguments)["two@test"]["error"]


def test_a_rate_limit_is_set(three: Cluster) -> None:
    assert "ok" in three.tell("rate_limit", "two", task_name="nap", rate_limit="1/h")["two@test"]
    assert "ok" in three.tell("rate_limit", "two", task_name="nap", rate_limit="0")["two@test"]


def test_a_command_past_its_expires_or_delivered_twice_is_ignored(
    three: Cluster, wait_until: Callable[..., None]
) -> None:
    """The test sends a copy of a delivered command to a worker that would otherwise carry out the revoke again."""
    mailbox = three.control.mailbox
    with three.queues.app.connection_for_write() as connection:
        channel = connection.default_channel
        for expires, task in ((time.time() - 60, "late"), (time.time() + 60, "timely")):
            body = {"method": "revoke", "arguments": {"task_id": [task]}, "destination": None}
            producer = connection.Producer(channel, auto_declare=False)
            for _ in range(2):
                producer.publish(
                    body | {"pattern": None, "matcher": None},
                    exchange=mailbox.exchange.name,
                    declare=[mailbox.exchange],
                    headers={"clock": 5, "expires": expires},
                    serializer="json",
                    message_id=task,
                )
    wait_until(lambda: three.queues.log().count("Tasks flagged as revoked: timely") >= 3)
    three.ask("ping", limit=3)
    assert three.queues.log().count("Tasks flagged as revoked: timely") == 3, "once a worker"
    assert "revoked: late" not in three.queues.log()
    assert three.queues.log().count("ignored a remote command") == 6


def test_a_task_that_waits_in_a_worker_can_be_revoked(cluster: Cluster, wait_until: Callable[..., None]) -> None:
    cluster.start("one", concurrency=1)
    done = cluster.queues.folder / "done"
    cluster.queues.send("hold", "busy", str(done))
    wait_until(lambda: cluster.queues.lines()["start busy"])
    task_id = cluster.queues.send("note", "revoked")
    wait_until(lambda: len(cluster.ask("reserved", limit=1)["one@test"]) == 1)
    assert "ok" in cluster.tell("revoke", "one", task_id=task_id)["one@test"]
    done.touch()
    wait_until(lambda: cluster.queues.lines()["end busy"])
    wait_until(lambda: cluster.queues.counts() == (0, 0, 0))
    assert cluster.queues.lines()["revoked"] == 0


@pytest.mark.parametrize("pool", ["gevent", "prefork"])
def test_pools_that_can_are_told(cluster: Cluster, pool: str, wait_until: Callable[..., None]) -> None:
    def size() -> int:
        stats = cluster.ask("stats", limit=1)["one@test"]["pool"]
        return len(stats["processes"]) if "processes" in stats else int(stats["max-concurrency"])

    cluster.start("one", pool=pool)
    assert "ok" in cluster.tell("pool_grow", "one", n=2)["one@test"]
    wait_until(lambda: size() == 4)
    assert "ok" in cluster.tell("pool_shrink", "one", n=1)["one@test"]
    wait_until(lambda: size() == 3)
    assert "ok" in cluster.tell("time_limit", "one", task_name="nap", soft=50.0, hard=60.0)["one@test"]
    task_id = cluster.queues.send("nap", "long", 600)
    wait_until(lambda: cluster.queues.lines()["start long"])
    assert "ok" in cluster.tell("revoke", "one", task_id=task_id, terminate=True)["one@test"]
    wait_until(lambda: not cluster.ask("active", limit=1)["one@test"])
    wait_until(lambda: cluster.queues.counts() == (0, 0, 0))
    assert cluster.queues.lines()["end long"] == 0


def ask_and_vanish(cluster: Cluster, when: str) -> None:
    """Call a worker, and disappear before the command is read, before it is answered, or before the answer is read."""
    caller = ControlQueues(
        f"{cluster.queues.prefix}celery-control-", lambda: cluster.queues.sqs, lambda: cluster.queues.sqs, {}, {}
    )
    if when != "before":
        caller.open("replies", "reply.celery.pidbox", "caller")
    reply_to = {"exchange": "reply.celery.pidbox", "routing_key": "caller" if when != "before" else uuid.uuid4().hex}
    body = {"method": "ping", "arguments": {}, "destination": None, "ticket": "t", "reply_to": reply_to}
    caller.broadcast(
        "celery.pidbox",
        json.dumps(
            {
                "body": json.dumps(body),
                "content-type": "application/json",
                "content-encoding": "utf-8",
                "headers": {"clock": uuid.uuid4().int % 10**9, "expires": time.time() + 1},
                "properties": {
                    "body_encoding": "utf-8",
                    "delivery_tag": uuid.uuid4().hex,
                    "delivery_info": {"exchange": "celery.pidbox", "routing_key": ""},
                },
            }
        ),
    )
    replies = caller.get("replies")
    if when == "after" and replies:
        assert replies.receive(10, 10, 30)
    caller.exit()


@pytest.mark.parametrize("pool", ["threads", "gevent", "prefork"])
def test_a_caller_who_has_gone_costs_the_worker_nothing(
    cluster: Cluster, pool: str, wait_until: Callable[..., None]
) -> None:
    asked: Counter[str] = Counter()

    def count(_: str, action: str, body: bytes) -> str:
        asked[action] += b"reply" in body
        return ""

    with running(Proxy(cluster.queues.endpoint, count)) as proxy:
        cluster.start("one", pool=pool, BROKER_URL=cluster.queues.broker_url(proxy.url))
        asked.clear()
        for when in ("before", "between", "after") * 5:
            ask_and_vanish(cluster, when)
        cluster.queues.send("note", "works on")
        wait_until(lambda: cluster.queues.lines()["works on"])
        assert cluster.ask("ping", limit=1).keys() == {"one@test"}
        assert asked["GetQueueUrl"] + asked["SendMessage"] <= 2 * 16, "each reply is tried once"
        cluster.queues.stop()
    assert "Traceback" not in cluster.queues.log()


@pytest.mark.parametrize("pool", ["threads", "gevent", "prefork"])
@pytest.mark.parametrize("answer", ["AccessDenied", "RequestThrottled", "nothing"])
def test_replies_that_sqs_does_not_take_cost_the_worker_nothing(
    cluster: Cluster, pool: str, answer: str, wait_until: Callable[..., None]
) -> None:
    tried: list[str] = []

    def refuse(_: str, action: str, body: bytes) -> str:
        if action not in {"SendMessage", "GetQueueUrl"} or b"reply-celery-pidbox" not in body:
            return ""
        tried.append(action)
        if answer == "nothing":
            raise Dropped
        return answer

    with running(Proxy(cluster.queues.endpoint, refuse)) as proxy:
        cluster.queues.start("-n", "one@test", "-P", pool, "-c", "2", BROKER_URL=cluster.queues.broker_url(proxy.url))
        wait_until(lambda: "ready." in cluster.queues.log() and cluster.control_queues("celery-pidbox"))
        for _ in range(5):
            assert not cluster.ask("ping", timeout=0.2)
        wait_until(lambda: len(tried) == 5)
        cluster.queues.send("note", "works on")
        wait_until(lambda: cluster.queues.lines()["works on"])
        cluster.queues.stop()
    assert len(tried) == 5, "no reply is tried again"


@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_worker_that_is_told_to_shut_down_takes_its_queue_with_it(cluster: Cluster, pool: str) -> None:
    cluster.start("one", pool=pool)
    assert len(cluster.control_queues("celery-pidbox")) == 1
    cluster.control.shutdown(destination=["one@test"])
    (worker,) = cluster.queues.workers
    assert worker.wait(60) == 0
    assert cluster.control_queues("celery-pidbox") == []


def test_what_a_killed_worker_leaves_is_reaped_after_its_lease(cluster: Cluster) -> None:
    cluster.start("one")
    (worker,) = cluster.queues.workers
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    (url,) = cluster.control_queues("celery-pidbox")
    prefix = f"{cluster.queues.prefix}celery-control-"
    assert list(reap(cluster.queues.sqs, prefix)) == []
    cluster.queues.sqs.tag_queue(QueueUrl=url, Tags={LEASE_TAG: "1"})
    assert list(reap(cluster.queues.sqs, prefix)) == [url.rpartition("/")[2]]
    assert cluster.control_queues("celery-pidbox") == []


def celery(cluster: Cluster, *arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Run a command of Celery's as a person types it."""
    return subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "testapp", *arguments],
        env=os.environ | cluster.queues.environment(),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_celery_status_names_the_workers(three: Cluster, tmp_path: Path) -> None:
    output, _ = celery(three, "status", "--timeout", "10", folder=tmp_path).communicate(timeout=120)
    assert "3 nodes online." in output, output


def test_celery_events_shows_each_task_and_leaves_no_queue(
    cluster: Cluster, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    cluster.start("one", SEND_EVENTS="1")
    cluster.queues.send("note", "before anybody watches")
    wait_until(lambda: cluster.queues.lines()["before anybody watches"])
    watching = celery(cluster, "events", "--dump", folder=tmp_path)
    try:
        shown = ""
        for until in ("heartbeat", "task failed: boom"):
            while until not in shown:
                assert watching.stdout
                line = watching.stdout.readline()
                assert line, shown
                shown += line
            if until == "heartbeat":  # by then the worker knows that somebody watches
                cluster.queues.send("boom")
        assert "one@test" in shown
        assert "task received: boom" in shown
        assert "note" not in shown
    finally:
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=60)
    assert cluster.control_queues("celeryev") == []


def test_one_option_turns_all_of_it_off_and_the_worker_says_so(
    cluster: Cluster, wait_until: Callable[..., None]
) -> None:
    cluster.queues.start(CONTROL_QUEUE_PREFIX="")
    wait_until(lambda: "ready." in cluster.queues.log())
    wait_until(lambda: "events and remote control are off" in cluster.queues.log())
    assert cluster.control_queues() == []
    cluster.queues.send("note", "works all the same")
    wait_until(lambda: cluster.queues.lines()["works all the same"])


def test_they_work_beside_predefined_queues_whose_credentials_nobody_sees(
    cluster: Cluster, wait_until: Callable[..., None]
) -> None:
    cluster.start("one", PREDEFINED="1", SEND_EVENTS="1")
    cluster.queues.send("note", "hello")
    wait_until(lambda: cluster.queues.lines()["hello"])
    assert "top-secret" not in str(cluster.ask("stats", limit=1))
