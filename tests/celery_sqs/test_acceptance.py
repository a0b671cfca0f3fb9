"""A worker accepts every message that kombu and Celery accept. It dead-letters all others with a reason and goes on."""

from __future__ import annotations

import bz2
import json
import zlib
from base64 import b64decode, b64encode
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kombu
import kombu.compression
import kombu.transport.SQS
import pytest
from celery import Celery

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.celery_sqs.conftest import Queues

THREADS = ("-P", "threads", "-c", "4")
NAMES = sorted(kombu.compression._aliases)
HEADERS = {"task": "note", "id": "7d2b"}


def task_body(text: str) -> bytes:
    return json.dumps([[text], {}, {}]).encode()


def message(body: bytes | str, headers: Any = HEADERS, **properties: Any) -> str:
    """Return a Celery message as somebody might write it by hand, for example in another language."""
    encoded = isinstance(body, bytes)
    return json.dumps(
        {
            "body": b64encode(body).decode() if isinstance(body, bytes) else body,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {"body_encoding": "base64" if encoded else "utf-8"} | properties,
        }
    )


def put(queues: Queues, body: str) -> None:
    queues.sqs.send_message(QueueUrl=queues.url("tasks"), MessageBody=body)


def test_a_compressed_task_runs(queues: Queues, wait_until: Callable[..., None]) -> None:
    for name in NAMES:
        queues.send("note", name, compression=name)
    queues.start(*THREADS)
    wait_until(lambda: queues.lines() == dict.fromkeys(NAMES, 1))
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert queues.dead_letters() == []


def test_tasks_run_in_an_app_whose_setting_compresses_all(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.app.conf.task_compression = "zstd"
    queues.send("tree", "root", 3, 2)
    sent = queues.sqs.receive_message(QueueUrl=queues.url("tasks"), VisibilityTimeout=0)["Messages"][0]["Body"]
    assert json.loads(b64decode(sent))["headers"]["compression"] == "application/zstd"
    queues.start(*THREADS, TASK_COMPRESSION="bzip2")
    wait_until(lambda: len(queues.lines()) == 1 + 3 + 6)
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert set(queues.lines().values()) == {1}


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_task_runs_however_its_message_is_encoded(
    queues: Queues, wait_until: Callable[..., None], serializer: str
) -> None:
    """The messages cover every combination that stock kombu sends and reads."""
    combinations = list(product((True, False), ("base64", "utf-8", None), (None, "gzip")))
    for base64, body_encoding, compression in combinations:
        app = Celery("producer", broker=queues.broker_url())
        app.conf.update(queues.app.conf.changes)
        app.conf.broker_transport_options = queues.app.conf.broker_transport_options | {
            "sqs_base64_encoding": base64,
            "body_encoding": body_encoding,
        }
        name = f"{base64} {body_encoding} {compression}"
        app.send_task("note", [name], compression=compression, serializer=serializer)
        app.close()
    queues.start(*THREADS, ACCEPT_CONTENT=f"json,{serializer}", C_FORCE_ROOT="1")
    wait_until(lambda: len(queues.lines()) + len(queues.dead_letters()) == len(combinations))
    assert set(queues.lines()) == {" ".join(map(str, combination)) for combination in combinations}


HAND_WRITTEN = {
    "without delivery_info": message(task_body("without delivery_info")),
    "compressed": message(zlib.compress(task_body("compressed")), HEADERS | {"compression": "gzip"}),
    "with an empty compression": message(task_body("with an empty compression"), HEADERS | {"compression": ""}),
    "with properties of its own": message(task_body("with properties of its own"), reply_to=None, delivery_info={}),
    "of protocol 1": message(json.dumps({"task": "note", "id": "7d2b", "args": ["of protocol 1"]}).encode(), None),
    "of protocol 1 with headers": message(
        json.dumps({"task": "note", "id": "7d2c", "args": ["of protocol 1 with headers"]}), {}
    ),
}


def test_a_hand_written_message_runs_where_stock_kombu_runs_it(queues: Queues, wait_until: Callable[..., None]) -> None:
    for body in HAND_WRITTEN.values():
        put(queues, body)
    queues.start(*THREADS)
    wait_until(lambda: queues.lines() == dict.fromkeys(HAND_WRITTEN, 1))
    assert queues.dead_letters() == []


def test_stock_kombu_and_celery_sqs_read_each_others_messages(queues: Queues, wait_until: Callable[..., None]) -> None:
    """A project can then change over while old and new workers share its queues."""
    stock = Celery("stock", broker=queues.broker_url())
    stock.conf.update(
        task_default_queue="tasks", broker_transport_options=dict(queues.app.conf.broker_transport_options)
    )
    queues.send("note", "from celery_sqs")
    with stock.connection_for_read() as connection:
        assert type(connection.transport) is kombu.transport.SQS.Transport
        received = kombu.Queue("tasks", no_declare=True)(connection.default_channel).get(no_ack=True)
        assert received.payload[0] == ["from celery_sqs"]

    stock.send_task("note", ["from stock kombu"])
    stock.close()
    queues.start(*THREADS)
    wait_until(lambda: queues.lines() == {"from stock kombu": 1})


BOMB = bz2.compress(bytes(45_000_000)) * 75  # 3.8 KB that decompress to 3.4 GB
PRIVATE = "ada@example.com"
REFUSED = {
    "a bomb": (message(BOMB, HEADERS | {"compression": "bzip2"}), "DecompressedTooLarge"),
    "a bomb in a bomb": (message(bz2.compress(BOMB), HEADERS | {"compression": "bzip2"}), "NotAMessage"),
    "no such compression": (message(b"", HEADERS | {"compression": "rot13"}), "UnknownCompression"),
    "a compression of a wrong type": (message(b"x", HEADERS | {"compression": ["gzip"]}), "UnknownCompression"),
    "a claim to be compressed": (message(task_body(PRIVATE), HEADERS | {"compression": "gzip"}), "NotDecompressible"),
    "compressed, but text": (message("text", HEADERS | {"compression": "gzip"}), "NotDecompressible"),
    "cut short": (message(zlib.compress(b"[]")[:-1], HEADERS | {"compression": "zlib"}), "NotDecompressible"),
    "no JSON": (message(f"[{PRIVATE}".encode()), "NotAMessage"),
    "JSON that only Python's parser reads": (message(json.dumps([[PRIVATE], {}, {}]).encode("utf-16")), "NotAMessage"),
    "JSON of a type that kombu does not know": (
        message(json.dumps([[{"__type__": "none", "__value__": PRIVATE}], {}, {}]).encode()),
        "NotAMessage",
    ),
    "deep JSON": (message(b"[" * 100_000), "NotAMessage"),
    "half a character": (message('[["\ud800"], {}, {}]'), "NotAMessage"),
    "no such encoding": (message("[]", body_encoding="rot13"), "NotAMessage"),
    "an encoding of a wrong type": (message("[]", body_encoding=7), "NotAMessage"),
    "headers of a wrong type": (message("[]", ["task"]), "NotAMessage"),
    "delivery_info of a wrong type": (message("[]", delivery_info=7), "NotAMessage"),
    "properties of a wrong type": (json.dumps({"body": "[]", "headers": HEADERS, "properties": 7}), "NotAMessage"),
    "an envelope of a type that kombu does not know": (
        json.dumps({"body": {"__type__": "none", "__value__": 1}, "headers": HEADERS, "properties": {}}),
        "NotAMessage",
    ),
    "no envelope": (PRIVATE, "NotAMessage"),
    "a list": ('["a"]', "NotAMessage"),
    "deep nonsense": ("[" * 100_000, "NotAMessage"),
    "no properties": (json.dumps({"body": "[]", "headers": HEADERS}), "NotAMessage"),
}


def peak_kilobytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "gevent", "prefork"])
def test_what_cannot_be_read_is_a_dead_letter_and_the_next_task_runs(
    queues: Queues, pool: str, wait_until: Callable[..., None]
) -> None:
    worker = queues.start("-P", pool, "-c", "1")
    queues.send("note", "first")
    wait_until(lambda: queues.lines() == {"first": 1})
    before = peak_kilobytes(worker.pid)
    reasons: dict[str, list[str]] = {}
    for number, (name, (body, _)) in enumerate(REFUSED.items()):
        put(queues, body)
        queues.send("note", f"canary {number}")
        wait_until(lambda number=number: queues.lines()[f"canary {number}"], what=f"work goes on after {name}")
        letters = reasons[name] = []
        wait_until(lambda letters=letters: letters.extend(queues.dead_letters()) or letters, what=name)
    found = {name: [letter["Reason"] for letter in letters] for name, letters in reasons.items()}
    assert found == {name: [reason] for name, (_, reason) in REFUSED.items()}
    assert peak_kilobytes(worker.pid) - before < 64_000
    assert PRIVATE not in queues.log()
    assert "Traceback" not in queues.log()


def test_an_app_may_take_no_compressed_messages(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("note", "compressed", compression="gzip")
    put(queues, message(b"", HEADERS | {"compression": "rot13"}))
    queues.send("note", "plain")
    queues.start(*THREADS, TRANSPORT_OPTIONS='{"accept_compression": false}')
    letters: list[dict[str, str]] = []
    wait_until(lambda: letters.extend(queues.dead_letters()) or len(letters) == 2)
    assert {letter["Reason"] for letter in letters} == {"CompressionRefused"}
    wait_until(lambda: queues.lines() == {"plain": 1})


def test_an_app_may_set_how_large_a_decompressed_body_is(queues: Queues, wait_until: Callable[..., None]) -> None:
    queues.send("note", "x" * 1000, compression="gzip")
    queues.send("note", "y" * 10_000, compression="gzip")
    queues.send("note", "z" * 10_000)
    queues.start(*THREADS, TRANSPORT_OPTIONS='{"max_decompressed_bytes": 2000}')
    letters: list[dict[str, str]] = []
    wait_until(lambda: letters.extend(queues.dead_letters()) or letters)
    assert [letter["Reason"] for letter in letters] == ["DecompressedTooLarge"]
    assert "2000 bytes" in letters[0]["Detail"]
    wait_until(lambda: queues.lines() == {"x" * 1000: 1, "z" * 10_000: 1})


def test_a_consumer_of_kombus_receives_a_raw_body_as_text(queues: Queues) -> None:
    """Celery's workers do not accept such a message, but an app's own consumer may."""
    received: list[Any] = []
    put(queues, '{"Records": []}')
    with (
        queues.app.connection_for_read() as connection,
        connection.Consumer(
            kombu.Queue("tasks", no_declare=True),
            callbacks=[lambda body, got: (received.append(body), got.ack())],
            auto_declare=False,
        ),
    ):
        connection.drain_events(timeout=30)
    assert received == ['{"Records": []}']
