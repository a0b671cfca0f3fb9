"""A Celery app unrelated to email, with the transport as its only setting. Its tasks write to a journal."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from billiard.connection import Connection
from celery import Celery, Task, chain
from celery.concurrency.thread import TaskPool as ThreadsPool
from celery.exceptions import Reject
from celery.signals import task_prerun, task_revoked, worker_ready, worker_shutdown
from celery.utils.time import maybe_make_aware
from celery.worker.control import Panel
from celery.worker.request import Request as CeleryRequest

from celery_sqs import Reason, delays, transport, watchdog

JOURNAL = Path(os.environ["JOURNAL"])
PREFIX = os.environ["QUEUE_PREFIX"]

app = Celery("testapp", broker=os.environ["BROKER_URL"])
app.conf.update(
    broker_transport="celery_sqs.transport:Transport",
    broker_transport_options={
        "region": "us-east-1",
        "is_secure": False,
        "queue_name_prefix": PREFIX,
        "raw_queues": {"raw": "note"},
        "visibility_timeout": int(os.environ.get("VISIBILITY_TIMEOUT", "60")),
        "wait_time_seconds": int(os.environ.get("WAIT_TIME_SECONDS", "15")),
        "liveness_file": os.environ.get("LIVENESS_FILE"),
    },
    task_default_queue="tasks",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_acks_on_failure=False,
    task_acks_on_timeout=False,
)
app.conf.worker_send_task_events = "SEND_EVENTS" in os.environ
app.conf.task_compression = os.environ.get("TASK_COMPRESSION")
app.conf.accept_content = os.environ.get("ACCEPT_CONTENT", "json").split(",")
app.conf.broker_transport_options |= json.loads(os.environ.get("TRANSPORT_OPTIONS", "{}"))
if (prefix := os.environ.get("CONTROL_QUEUE_PREFIX")) is not None:
    app.conf.broker_transport_options["control_queue_prefix"] = prefix
if "PREDEFINED" in os.environ:
    app.conf.broker_transport_options["predefined_queues"] = {
        PREFIX + name: {
            "url": f"http://{os.environ['BROKER_URL'].partition('@')[2]}/000000000000/{PREFIX}{name}",
            "access_key_id": "test",
            "secret_access_key": "top-secret",
        }
        for name in ("tasks", "raw")
    }
if most := os.environ.get("MAX_DELAY_SECONDS"):
    delays.MAX_DELAY_SECONDS = int(most)
if stalled := os.environ.get("STALLED_SECONDS"):
    watchdog.STALLED_SECONDS, watchdog.TICK_SECONDS = float(stalled), 0.2
    transport.BEAT_EVERY_SECONDS = 0.2


def journal(line: str) -> None:
    with JOURNAL.open("a") as file:
        file.write(line + "\n")


@app.task(name="note")
def note(text: str) -> None:
    journal(text)


@app.task(name="tree")
def tree(name: str, *widths: int) -> None:
    """Publish widths[0] children, each with the remaining widths."""
    journal(name)
    for number in range(widths[0] if widths else 0):
        tree.delay(f"{name}.{number}", *widths[1:])
    time.sleep(float(os.environ.get("TREE_SECONDS", "0")))


def way(request: Any) -> str:
    """Return how the task's message came to this worker. A handed-off one has the task's id in place of SQS's."""
    return "handed off" if message_id(request) == request.id else "by SQS"


@app.task(name="where", bind=True)
def where(self: Any, name: str) -> None:
    journal(f"{name} {way(self.request)}")


@app.task(name="publish")
def publish(calls: list[tuple[str, list[Any], dict[str, Any]]], until: str = "") -> None:
    """Publish the tasks, and then run until a file with that name exists."""
    for name, args, options in calls:
        app.send_task(name, args, **options)
    journal("published")
    while until and not Path(until).exists():
        time.sleep(0.02)


@app.task(name="relay", bind=True)
def relay(self: Any, number: int) -> None:
    """Publish itself, so many times."""
    journal(f"{number} {way(self.request)}")
    if number:
        self.delay(number - 1)


@app.task(name="nap")
def nap(name: str, seconds: float) -> None:
    journal(f"start {name}")
    time.sleep(seconds)
    journal(f"end {name}")


@app.task(name="hold")
def hold(name: str, until: str) -> None:
    """Run until a file with that name exists."""
    journal(f"start {name}")
    while not Path(until).exists():
        time.sleep(0.02)
    journal(f"end {name}")


@app.task(name="early", acks_late=False)
def early(name: str, seconds: float) -> None:
    journal(f"start {name}")
    time.sleep(seconds)
    journal(f"end {name}")


@app.task(name="again", bind=True)
def again(self: Any, name: str, countdown: float) -> None:
    journal(f"{name} {self.request.retries}")
    if not self.request.retries:
        raise self.retry(countdown=countdown)


@app.task(name="give_back", bind=True)
def give_back(self: Any, name: str) -> None:
    """Give the message back when it is received for the first time."""
    count = self.request.properties["delivery_info"]["sqs_message"]["Attributes"]["ApproximateReceiveCount"]
    journal(f"{name} {count}")
    if count == "1":
        raise Reject(requeue=True)


def journal_group(task: Any) -> None:
    """Write to the journal which queue the task's message came from, and its message group."""
    info = task.request.properties["delivery_info"]
    queue = info["sqs_queue"].rpartition("-")[2]
    journal(f"{task.name} {task.request.retries} {queue} {info['sqs_message']['Attributes'].get('MessageGroupId')}")


@app.task(name="first", bind=True)
def first(self: Any, body: str) -> None:
    """Start a chain, by calling another task as a function. The body comes from a raw queue."""
    journal_group(self)
    start(json.loads(body))


@app.task(name="start")
def start(options: dict[str, Any]) -> None:
    chain(second.s(3).set(**options), third.s().set(**options)).apply_async()


@app.task(name="second", bind=True)
def second(self: Any, countdown: float) -> None:
    journal_group(self)
    if not self.request.retries:
        raise self.retry(countdown=countdown)


@app.task(name="third", bind=True)
def third(self: Any, result: object) -> None:
    journal_group(self)
    raise Reject(Reason("TheEnd", "this task is the last"))


class OwnRequest(CeleryRequest):
    """A class that an app sets through Celery's documented `Task.Request`. It does not know this transport."""


class TaskOfOwnRequest(Task):
    Request = OwnRequest


@app.task(name="own_request", base=TaskOfOwnRequest)
def own_request(name: str, until: str) -> None:
    hold(name, until)


class CustomPool(ThreadsPool):
    """A pool that is not one of Celery's (`worker_pool = "custom"`)."""


@app.task(name="seldom", rate_limit="20/m")
def seldom(text: str) -> None:
    journal(text)


@app.task(name="tell", bind=True)
def tell(self: Any) -> None:
    """Write to the journal what the request says about its ETA and its delivery."""
    eta = self.request.eta
    late = round((datetime.now(UTC) - maybe_make_aware(datetime.fromisoformat(eta))).total_seconds()) if eta else None
    journal(f"late {late} redelivered {self.request.delivery_info['redelivered']}")


@app.task(name="requeue_twice", bind=True)
def requeue_twice(self: Any) -> None:
    journal(f"run, redelivered {self.request.delivery_info['redelivered']}")
    if JOURNAL.read_text().count("run, ") < 3:
        raise Reject("once more", requeue=True)


@app.task(name="refuse")
def refuse() -> None:
    raise Reject(Reason("NotWanted", "this task refuses everything"))


@app.task(name="boom")
def boom() -> None:
    raise ValueError("private content")


@app.task(name="out_of_memory")
def out_of_memory() -> None:
    raise MemoryError


@app.task(name="leave")
def leave() -> None:
    """End the process, which a task might believe it may do."""
    raise SystemExit


@app.task(name="oversize")
def oversize() -> None:
    note.delay("x" * 2_000_000)


@Panel.register
def stall(_: object, until: str) -> None:
    """Block the thread that runs remote commands with Python code, until a file with that name exists."""
    journal("stalled")
    while not Path(until).exists():
        time.sleep(0.02)


@worker_ready.connect
def stall_the_loop(sender: Any, **_: object) -> None:
    """Block the consumer's loop while the file exists that STALL_LOOP names."""
    if file := os.environ.get("STALL_LOOP"):

        def stand_still() -> None:
            if Path(file).exists():
                journal("stalled")
                while Path(file).exists():
                    time.sleep(0.02)

        if sender.hub:
            sender.hub.call_repeatedly(0.05, stand_still)
        else:  # gevent's loop calls this
            transport = sender.connection.transport
            drain = transport.drain_events
            transport.drain_events = lambda *args, **options: (stand_still(), drain(*args, **options))


if "QUIT_IN_A_WRITE" in os.environ:
    send_offset = Connection.send_offset
    numbers = iter([0, signal.SIGQUIT])

    def quit_and_send(self: Connection, buffer: memoryview, offset: int) -> int:
        """Get a SIGQUIT after the header of the first job was written to a process of prefork, and before its body."""
        os.kill(os.getpid(), next(numbers, 0))
        return int(send_offset(self, buffer, offset))

    Connection.send_offset = quit_and_send


def message_id(request: Any) -> str:
    return str(request.properties["delivery_info"]["sqs_message"]["MessageId"])


if "JOURNAL_RUNS" in os.environ:

    @task_prerun.connect
    def say_run(task: Any, **_: object) -> None:
        journal(f"ran {message_id(task.request)}")

    @task_revoked.connect
    def say_revoked(request: Any, **_: object) -> None:
        journal(f"revoked {message_id(request)}")


@worker_shutdown.connect
def say_stopped(**_: object) -> None:
    """Report that everything has stopped, except what the process does in its exit functions."""
    print("everything has stopped")  # noqa: T201 (Celery logs what is printed)


@worker_ready.connect
def lose_connection(sender: object, **_: object) -> None:
    """Raise a broken socket's error in the event loop, once, if the test asks for it."""
    flag = os.environ.get("LOSE_CONNECTION")
    if flag and not Path(flag).exists():
        Path(flag).touch()

        def reset() -> None:
            raise ConnectionResetError

        sender.hub.call_later(0.5, reset)  # type: ignore[attr-defined]  # it is the worker's consumer
