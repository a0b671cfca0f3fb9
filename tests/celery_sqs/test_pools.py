"""Every pool works with early and late acknowledgement, in a worker process and in an embedded worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.celery_sqs.conftest import Queues

HERE = Path(__file__).parent
POOLS = ("threads", "solo", "gevent", "prefork", "custom")
each_pool = pytest.mark.parametrize(
    "pool", [POOLS[0], *(pytest.param(pool, marks=pytest.mark.slow) for pool in POOLS[1:])]
)
each_ack = pytest.mark.parametrize(
    "task", [pytest.param("early", marks=pytest.mark.slow), "nap"], ids=["early ack", "late ack"]
)


def options(pool: str) -> tuple[tuple[str, ...], dict[str, str]]:
    if pool == "custom":
        return ("-P", "custom"), {"CELERY_CUSTOM_WORKER_POOL": "testapp:CustomPool"}
    return ("-P", pool, "-c", "1" if pool == "solo" else "2"), {}


@each_pool
@each_ack
def test_a_worker_runs_tasks_once_and_obeys_sigterm(
    queues: Queues, pool: str, task: str, wait_until: Callable[..., None]
) -> None:
    for number in range(4):
        queues.send(task, f"n{number}", 0.0)
    arguments, environment = options(pool)
    worker = queues.start(*arguments, **environment)
    wait_until(lambda: sum(line.startswith("end") for line in queues.lines()) == 4)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert set(queues.lines().values()) == {1}
    assert queues.counts() == (0, 0, 0)


@pytest.mark.slow
def test_prefork_stops_on_a_sigquit_in_the_middle_of_a_write_to_a_process(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    queues.send("note", "once")
    worker = queues.start("-P", "prefork", "-c", "1", QUIT_IN_A_WRITE="yes", VISIBILITY_TIMEOUT="600")
    wait_until(lambda: worker.poll() is not None, what="the worker stops")
    assert "Cold shutdown" in queues.log()
    wait_until(lambda: queues.counts() == (1 - queues.lines()["once"], 0, 0), what="its task has run, or can run again")


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "solo", "prefork"])
@each_ack
def test_an_embedded_worker_runs_tasks_once_and_stops(queues: Queues, pool: str, task: str) -> None:
    command = [sys.executable, str(HERE / "embedded.py"), pool, task, task, task]
    program = subprocess.run(
        command,
        env=os.environ | queues.environment(),
        cwd=queues.folder,
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert set(queues.lines().values()) == {1}
    assert queues.counts() == (0, 0, 0)


@pytest.mark.parametrize("pool", ["threads", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_task_with_a_request_class_of_its_own_runs_once_through_a_warm_shutdown(
    queues: Queues, pool: str, wait_until: Callable[..., None]
) -> None:
    done = queues.folder / "done"
    for number in range(6):
        queues.send("own_request", f"h{number}", str(done))
    arguments, _ = options(pool)
    worker = queues.start(*arguments)
    wait_until(lambda: queues.lines().total() == 2)
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in queues.log())
    done.touch()
    assert worker.wait(60) == 0
    assert set(queues.lines().values()) == {1}
    wait_until(lambda: queues.counts() == (6 - len(queues.lines()) // 2, 0, 0))


@pytest.mark.slow
def test_a_restart_by_sighup_runs_nothing_twice_and_leaves_no_control_queue(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    worker = queues.start("-P", "threads", "-c", "4")
    wait_until(lambda: "ready." in queues.log())
    for number in range(60):
        queues.send("nap", f"n{number}", 0.2)
    wait_until(lambda: queues.lines().total() > 20)
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: sum(line.startswith("end") for line in queues.lines()) >= 60)
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert set(queues.lines().values()) == {1}
    prefix = f"{queues.prefix}celery-control-celery-pidbox"
    assert len(queues.sqs.list_queues(QueueNamePrefix=prefix)["QueueUrls"]) == 1
    queues.stop()


def test_an_unreachable_sqs_does_not_connect_and_the_next_url_is_tried(queues: Queues, free_endpoint: str) -> None:
    nowhere = queues.broker_url(free_endpoint)
    with queues.app.connection_for_write(nowhere) as connection, pytest.raises(OperationalError):
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    queues.app.conf.broker_url = f"{nowhere};{queues.broker_url()}"
    queues.send("note", "by the second")
    assert queues.counts() == (1, 0, 0)


@pytest.mark.slow
def test_a_call_of_remote_control_without_sqs_raises_kombus_error(queues: Queues, free_endpoint: str) -> None:
    queues.app.conf.broker_url = queues.broker_url(free_endpoint)
    with pytest.raises(OperationalError):
        queues.app.control.ping(timeout=1)


def test_what_a_channel_recovers_is_received_again_and_not_copied(queues: Queues) -> None:
    queues.send("note", "once")
    with queues.app.connection_for_read() as connection:
        channel = connection.default_channel
        assert channel.basic_get("tasks")
        assert queues.counts() == (0, 1, 0)
        channel.basic_recover(requeue=True)
        assert queues.counts() == (1, 0, 0)


@pytest.mark.slow
def test_task_events_can_be_turned_off_and_on_while_nobody_watches(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    queues.start("-P", "threads", SEND_EVENTS="1")
    wait_until(lambda: "ready." in queues.log())

    def tell(command: str) -> str:
        (reply,) = queues.app.control.broadcast(command, reply=True, timeout=10, limit=1)
        (answer,) = reply.values()
        return str(answer["ok"])

    wait_until(lambda: queues.app.control.ping(timeout=2))
    told = [tell(command) for command in ("enable_events", "disable_events", "disable_events", "enable_events")]
    assert told == [
        "task events already enabled",
        "task events disabled",
        "task events already disabled",
        "task events enabled",
    ]
