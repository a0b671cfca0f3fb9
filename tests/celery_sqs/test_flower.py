"""What Flower shows of SQS on the emulator. tests/celery_sqs/test_flower_in_a_browser.py tests the pages."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import flower.api
import flower.app
import flower.command
import flower.events
import flower.utils.search
import flower.views
import pytest
from flower.options import options

from celery_sqs.flower import Broker
from celery_sqs.patches.flower import Flower, Receiver
from tests.conftest import free_port
from tests.support.sqs import report_age

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.celery_sqs.conftest import Queues


def ask(queues: Queues, *names: str) -> dict[str, dict[str, Any]]:
    answer = asyncio.run(Broker(queues.app).queues(names))
    assert [queue["name"] for queue in answer] == list(names)
    return {queue["name"]: queue for queue in answer}


def test_a_queue_shows_what_is_ready_in_flight_delayed_and_dead(queues: Queues) -> None:
    url = queues.url("raw")
    for _ in range(4):
        queues.sqs.send_message(QueueUrl=url, MessageBody="{}")
    queues.sqs.receive_message(QueueUrl=url)
    for _ in range(2):
        queues.sqs.send_message(QueueUrl=url, MessageBody="{}", DelaySeconds=900)
    queues.sqs.send_message(QueueUrl=queues.url("raw-dlq"), MessageBody="{}")
    assert ask(queues, "raw")["raw"] == {
        "name": "raw",
        "messages": 6,
        "messages_ready": 3,
        "messages_unacknowledged": 1,
        "messages_delayed": 2,
        "dead_letters": 1,
        "age_of_oldest_message": None,
        "age_unknown": "CloudWatch has no figure yet",
    }


def test_a_queue_without_a_dead_letter_queue_says_nothing_of_dead_letters(queues: Queues) -> None:
    queues.create_queue("plain", dead_letters=False)
    assert "dead_letters" not in ask(queues, "plain")["plain"]


def test_a_queue_that_is_not_there_hides_no_other_and_is_not_made(queues: Queues) -> None:
    answer = ask(queues, "missing", "tasks")
    assert answer["missing"]["error"] == f"Queue with name '{queues.prefix}missing' doesn't exist in SQS"
    assert answer["tasks"]["messages_ready"] == 0
    assert not queues.sqs.list_queues(QueueNamePrefix=f"{queues.prefix}missing").get("QueueUrls")


def test_an_sqs_that_is_unavailable_is_said_of_each_queue(queues: Queues) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    queues.app.conf.broker_url = queues.broker_url(away)
    answer = ask(queues, "raw", "tasks")
    assert [queue["error"] for queue in answer.values()] == [f'Could not connect to the endpoint URL: "{away}/"'] * 2


def test_predefined_queues_are_asked_at_their_urls(queues: Queues) -> None:
    queues.app.conf.broker_transport_options |= {
        "queue_name_prefix": "",
        "predefined_queues": {"work": {"url": queues.url("tasks")}},
    }
    answer = ask(queues, "raw", "work")
    assert answer["work"]["messages_ready"] == 0
    assert "raw" in answer["raw"]["error"]


def test_the_age_of_the_oldest_message_is_cloudwatchs_newest(queues: Queues) -> None:
    now = datetime.now(UTC)
    for seconds_ago, age in ((300, 10), (120, 190)):
        report_age(queues.endpoint, f"{queues.prefix}tasks", age, at=now - timedelta(seconds=seconds_ago))
    answer = ask(queues, "raw", "tasks")
    assert (answer["raw"]["age_of_oldest_message"], answer["tasks"]["age_of_oldest_message"]) == (None, 190)


@pytest.mark.parametrize(
    ("address", "password", "refused"),
    [
        ("127.0.0.1", [], False),
        ("::1", [], False),
        ("localhost", [], False),
        ("", [], True),
        ("0.0.0.0", [], True),
        ("10.1.2.3", [], True),
        ("flower.example.com", [], True),
        ("0.0.0.0", ["ada:secret"], False),
        ("0.0.0.0", [""], True),
    ],
)
def test_flower_listens_beyond_this_machine_only_with_authentication(
    monkeypatch: pytest.MonkeyPatch, address: str, password: list[str], refused: bool
) -> None:
    monkeypatch.setattr(options.mockable(), "address", address)
    monkeypatch.setattr(options.mockable(), "basic_auth", password)
    monkeypatch.setattr(flower.app.Flower, "start_http_server", lambda _: 5555)
    app = Flower.__new__(Flower)
    if refused:
        with pytest.raises(SystemExit, match=f"listen on {address or 'all interfaces'} .*FLOWER_BASIC_AUTH"):
            app.start_http_server()
    else:
        assert app.start_http_server() == 5555


def envelope(events: object, **changes: object) -> dict[str, Any]:
    """Return a kombu message that contains a worker's event."""
    message = {
        "body": json.dumps(events),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"hostname": "worker-1@host"},
        "properties": {
            "body_encoding": "utf-8",
            "delivery_info": {"exchange": "celeryev", "routing_key": "task.multi"},
            "delivery_mode": 1,
            "delivery_tag": str(uuid.uuid4()),
            "priority": 0,
        },
    }
    return message | changes


def event(hostname: str) -> dict[str, Any]:
    return {"type": "worker-heartbeat", "hostname": hostname, "timestamp": time.time(), "utcoffset": 0, "freq": 30}


FORGED_BODIES = [
    "no JSON",
    json.dumps([1]),
    json.dumps(envelope({"type": "worker-heartbeat"})),
    json.dumps(envelope([7, {"type": 7}, event("same-message")])),
    json.dumps(envelope(event("x"), body="no JSON")),
    json.dumps(envelope(event("x"), **{"content-type": "application/x-python-serialize"})),
    json.dumps(envelope(event("x"), **{"content-type": 7})),
    json.dumps(envelope(event("x"), **{"content-encoding": "odd"})),
    json.dumps(envelope(event("x"), headers=None)),
    *(json.dumps(envelope(event("x"), body=body, **{"content-type": "x/y"})) for body in ([1], {"a": 1}, None, 7)),
    *(
        json.dumps(envelope(event("x"), headers={name: value}))
        for name in ("expires", "clock", "eta")
        for value in ("x", [], {}, -1, 10**400)
    ),
    *(json.dumps(envelope(event("x"), properties=value)) for value in (None, [], {}, {"delivery_info": 7})),
]


def test_no_message_to_its_queue_keeps_flower_from_the_next_event(
    queues: Queues, wait_until: Callable[..., None]
) -> None:
    prefix = f"{queues.prefix}control-"
    queues.app.conf.broker_transport_options |= {"control_queue_prefix": "control-"}
    seen: list[str] = []
    with queues.app.connection() as connection:
        receiver = Receiver(connection, handlers={"*": lambda found: seen.append(found["hostname"])}, app=queues.app)
        watcher = threading.Thread(target=receiver.capture, kwargs={"limit": None, "timeout": None, "wakeup": False})
        watcher.start()
        try:
            wait_until(lambda: queues.sqs.list_queues(QueueNamePrefix=prefix).get("QueueUrls"), what="its queue")
            (url,) = queues.sqs.list_queues(QueueNamePrefix=prefix)["QueueUrls"]
            for number, body in enumerate(FORGED_BODIES):
                queues.sqs.send_message(QueueUrl=url, MessageBody=body)
                queues.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(envelope([event(f"after-{number}")])))
            last = {f"after-{number}" for number in range(len(FORGED_BODIES))}
            wait_until(lambda: last <= set(seen), seconds=20, what="the genuine events")
        finally:
            receiver.should_stop = True
            watcher.join(30)
    assert "same-message" in seen
