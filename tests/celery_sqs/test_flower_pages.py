"""Flower's pages answer whatever events arrive. Flower runs in this process, without a broker."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import flower.app
import flower.command
import flower.events
import hypothesis
import pytest
from celery import Celery
from flower.options import options
from flower.urls import settings as flower_settings
from hypothesis import given
from hypothesis import strategies as st
from tornado.ioloop import IOLoop

from celery_sqs import flower as ours
from celery_sqs.flower_events import FIELDS, known_event
from celery_sqs.patches.flower import HEADERS
from tests.conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = (
    "/",
    "/workers",
    "/workers?json=1",
    "/tasks",
    "/tasks/datatable?draw=1&start=0&length=50&order[0][column]=0",
    "/metrics",
    "/api/workers?status=1",
    "/api/tasks",
    "/api/task/types",
)
HOSTNAME = "worker-1@host"
TASK_ID = "5f1d7a84-1f8a-4c3e-9a55-0c2f6f3f2d10"


def heartbeat(**changes: object) -> dict[str, Any]:
    """Return the heartbeat event that a worker sends."""
    return {
        "type": "worker-heartbeat",
        "hostname": HOSTNAME,
        "utcoffset": 0,
        "pid": 1234,
        "clock": 17,
        "freq": 30.0,
        "active": 1,
        "processed": 2,
        "loadavg": [0.1, 0.2, 0.3],
        "sw_ident": "py-celery",
        "sw_ver": "5.7.0",
        "sw_sys": "Linux",
        "timestamp": time.time(),
    } | changes


def received(**changes: object) -> dict[str, Any]:
    """Return the task-received event that a worker sends."""
    return {
        "type": "task-received",
        "hostname": HOSTNAME,
        "utcoffset": 0,
        "pid": 1234,
        "clock": 18,
        "uuid": TASK_ID,
        "name": "tasks.load_email",
        "args": "('order-1',)",
        "kwargs": "{}",
        "root_id": TASK_ID,
        "parent_id": None,
        "retries": 0,
        "eta": None,
        "expires": None,
        "timestamp": time.time(),
    } | changes


@dataclass
class Running:
    """A Flower that gets its events from a test."""

    app: flower.app.Flower
    loop: IOLoop
    url: str
    receiver: Any
    stop: asyncio.Event

    def feed(self, body: object) -> None:
        """Pass it the body of a message, in the thread of its event loop."""
        done = threading.Event()
        errors: list[BaseException] = []

        def receive() -> None:
            try:
                self.receiver._receive(body, None)
            except BaseException as error:  # noqa: BLE001 (the test's thread raises it)
                errors.append(error)
            done.set()

        self.loop.add_callback(receive)
        assert done.wait(10)
        if errors:
            raise errors[0]

    def get(self, path: str, authorization: str = "") -> tuple[int, bytes, dict[str, str]]:
        request = urllib.request.Request(self.url + path, headers={"Authorization": authorization})
        try:
            answer = urllib.request.urlopen(request, timeout=10)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, answer.read(), dict(answer.headers)

    def forget(self) -> None:
        """Forget all events."""
        self.app.events.state = flower.events.EventsState(max_tasks_in_memory=100)
        self.receiver.handlers = {"*": self.app.events.state.event}


@contextmanager
def running() -> Iterator[Running]:
    started = threading.Event()
    found: list[Running] = []

    async def serve() -> None:
        celery = Celery("watched", broker="memory://")
        loop = IOLoop.current()
        app = flower.command.Flower(capp=celery, options=options, io_loop=loop, **flower_settings)
        port = free_port()
        server = app.listen(port, "127.0.0.1")
        receiver = flower.events.EventReceiver(celery.connection(), app=celery)
        found.append(Running(app, loop, f"http://127.0.0.1:{port}", receiver, asyncio.Event()))
        started.set()
        await found[0].stop.wait()
        server.stop()
        await server.close_all_connections()
        app.executor.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(30)
    try:
        yield found[0]
    finally:
        found[0].loop.add_callback(found[0].stop.set)
        thread.join(30)


@pytest.fixture(scope="module")
def module_patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def site(module_patch: pytest.MonkeyPatch) -> Iterator[Running]:
    module_patch.setenv("FLOWER_UNAUTHENTICATED_API", "true")
    ours.install()
    with running() as site:
        yield site


def assert_pages_answer(site: Running) -> None:
    for path in (*PAGES, *(f"/task/{urllib.parse.quote(name, safe='')}" for name in list(site.app.events.state.tasks))):
        status, body, _ = site.get(path)
        assert status == HTTPStatus.OK, path
        if "json" in path or "datatable" in path or path.startswith("/api"):
            json.loads(body, parse_constant=pytest.fail)  # browsers cannot read NaN and Infinity


def test_celerys_events_are_shown(site: Running) -> None:
    site.forget()
    site.feed([heartbeat(), received(), {**received(), "type": "task-succeeded", "result": "'Sent'", "runtime": 0.01}])
    (worker,) = json.loads(site.get("/workers?json=1")[1])["data"]
    assert (worker["hostname"], worker["status"], worker["active"], worker["loadavg"]) == (
        HOSTNAME,
        True,
        1,
        [0.1, 0.2, 0.3],
    )
    (task,) = json.loads(site.get("/api/tasks")[1]).values()
    assert (task["name"], task["args"], task["state"], task["result"]) == (
        "tasks.load_email",
        "('order-1',)",
        "SUCCESS",
        "'Sent'",
    )
    assert_pages_answer(site)


FORGED: list[object] = [
    *(None, 7, "event", [], [[]], [None], {}),
    *(heartbeat(type=value) for value in (None, 7, [], "", "\ud800")),
    *(heartbeat(hostname=value) for value in (None, 7, [], {}, "", "\ud800", "a\nb", "x" * 5000)),
    *(heartbeat(timestamp=value) for value in (None, "soon", [], float("nan"), float("inf"), -1, 1e300, 10**400, True)),
    *(heartbeat(utcoffset=value) for value in ("x", [], 1e300, float("nan"))),
    *(heartbeat(freq=value) for value in ("x", [], {}, float("nan"), 10**400, -1)),
    *(heartbeat(active=value) for value in ("x", [], {}, float("nan"), 10**400, float("inf"))),
    *(heartbeat(processed=value) for value in ("x", [], {}, float("nan"), 10**400)),
    *(heartbeat(loadavg=value) for value in ("\ud800", 7, ["x"], [1] * 100, [float("nan")], {"a": 1})),
    *(heartbeat(pid=value) for value in ("\ud800", [], {"a": {}})),
    *(heartbeat(clock=value) for value in (None, "x", [], float("nan"), 10**400, -1)),
    *(heartbeat(heartbeats=value) for value in (None, 7, "x", ["x"], [10**400])),
    *(
        heartbeat(**{name: "x"})
        for name in ("event", "alive", "id", "status_string", "__dict__", "__class__", "_fields")
    ),
    *(received(uuid=value) for value in (None, 7, [], {}, "", "\ud800")),
    *(received(name=value) for value in (7, [], {}, "\ud800")),
    *(received(**{name: value}) for name in ("args", "kwargs", "eta", "root_id") for value in ({}, [1], "\ud800")),
    *(received(parent_id=value) for value in (7, [], {}, "\ud800", TASK_ID)),
    *(received(retries=value) for value in ("x", [], float("nan"))),
    *(received(type="task-succeeded", runtime=value) for value in ("x", [], float("nan"), 10**400)),
    *(received(**{name: "x"}) for name in ("state", "worker", "children", "cluster_state", "_fields", "received")),
    *(received(**{name: "x"}) for name in ("as_dict", "client", "started", "parent", "root", "_serializer_handlers")),
    received(type="task-sent", uuid="other", clock="x"),
    received(type="task-"),
    received(type="worker-offline", uuid=7),
]


@pytest.mark.parametrize("number", range(0, len(FORGED), 10))
def test_forged_events_break_no_page_and_hide_no_event(site: Running, number: int) -> None:
    site.forget()
    for event in FORGED[number : number + 10]:
        site.feed(event)
        site.feed([event, heartbeat(), received()])
        assert_pages_answer(site)
    assert json.loads(site.get("/api/workers?status=1")[1])[HOSTNAME] is True
    assert TASK_ID in json.loads(site.get("/api/tasks")[1])


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([10**400, -(10**400), 1e308, "\ud800", TASK_ID, HOSTNAME, "nan"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
types = st.sampled_from(
    [
        *("worker-online", "worker-heartbeat", "worker-offline", "task-sent", "task-received", "task-started"),
        *("task-succeeded", "task-failed", "task-rejected", "task-revoked", "task-retried", "task-odd", "other"),
    ]
)
names = st.sampled_from([*FIELDS, "clock", "heartbeats", "state", "worker", "children", "started"]) | st.text(
    max_size=5
)
genuine = st.sampled_from([heartbeat(), received()])
events = st.builds(
    lambda event, kind, changes: event | {"type": kind} | changes,
    genuine,
    types,
    st.dictionaries(names, json_values, max_size=3),
)


@hypothesis.settings(
    deadline=None, max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@given(body=st.lists(events | json_values, max_size=5) | json_values)
def test_no_json_that_is_sent_as_events_breaks_a_page(site: Running, body: object) -> None:
    site.forget()
    site.feed(body)
    site.feed([heartbeat(), received()])
    assert_pages_answer(site)
    assert json.loads(site.get("/api/workers?status=1")[1])[HOSTNAME] is True


@given(event=events)
def test_what_is_known_of_an_event_is_of_celerys_fields_alone(event: dict[str, Any]) -> None:
    known = known_event(event)
    if known is not None:
        assert known.keys() <= FIELDS.keys()
        assert known.items() <= event.items()


def test_a_forged_clock_sets_nobodys_forward(site: Running) -> None:
    site.forget()
    before = site.receiver.clock.value
    site.feed(heartbeat(clock=2**80))
    assert site.receiver.clock.value == before + 1


@pytest.mark.parametrize("source", ["-" * 1000 + "1", "-" * 9000 + "1", "1+" * 9000 + "1", "(" * 3000])
def test_keyword_arguments_that_python_cannot_parse_break_no_page(site: Running, source: str) -> None:
    """Flower parses them as Python, so that users can search for them."""
    site.forget()
    site.feed([heartbeat(), received(kwargs=source)])
    assert_pages_answer(site)


PASSWORDS = ["ada:secret", "ada:pässwörd", "ádá:пароль", "ada:\U0001f511 with a space: and a colon"]


def basic(credentials: str) -> str:
    return f"Basic {b64encode(credentials.encode()).decode()}"


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_right_password_is_let_in_and_a_wrong_one_is_not(
    site: Running, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setattr(options.mockable(), "basic_auth", ["eve:other", password])
    for path in ("/workers", "/api/tasks"):
        assert site.get(path, basic(password))[0] == HTTPStatus.OK
        for wrong in (
            "",
            basic(f"{password}x"),
            basic("ada:"),
            basic("ada:ü"),
            "Basic /w==",
        ):
            assert site.get(path, wrong)[0] == HTTPStatus.UNAUTHORIZED


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *((path, 200) for path in PAGES),
        ("/healthcheck", 200),
        ("/static/js/flower.js", 200),
        ("/static/missing.js", 404),
        ("/nowhere", 404),
        ("/worker/missing", 404),
        ("/task/missing", 404),
        ("/login", 404),
    ],
)
def test_no_answer_may_be_framed_or_taken_for_another_type(site: Running, path: str, status: int) -> None:
    found, _, headers = site.get(path)
    assert found == status
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_an_answer_that_refuses_has_the_headers_too(site: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.mockable(), "basic_auth", ["ada:secret"])
    found, _, headers = site.get("/workers")
    assert found == HTTPStatus.UNAUTHORIZED
    assert HEADERS.items() <= headers.items()
