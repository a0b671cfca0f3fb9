"""If Celery's code raises an error around a task, the message is dead-lettered and its slot in the pool is freed."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.celery_sqs.pools import SOLO, slow_pools, threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.celery_sqs.conftest import Queues

each_pool = pytest.mark.parametrize(
    "pool", [pytest.param(threads, id="threads"), *slow_pools, pytest.param(SOLO, marks=pytest.mark.slow, id="solo")]
)


def post(queues: Queues, args: Any = ("poison",), kwargs: Any = None, embed: Any = None, **headers: Any) -> None:
    """Put a protocol-2 message with any content on the tasks queue."""
    task_id = str(uuid.uuid4())
    message = {
        "body": json.dumps([args, {} if kwargs is None else kwargs, embed]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"id": task_id, "task": "note", "lang": "py"} | headers,
        "properties": {"delivery_info": {}, "delivery_tag": task_id},
    }
    queues.sqs.send_message(QueueUrl=queues.url("tasks"), MessageBody=json.dumps(message))


POISONS: dict[str, dict[str, Any]] = {
    "a link of its chain has no task": {"embed": {"chain": [{}]}},
    "its callbacks are no signatures": {"embed": {"callbacks": [5]}},
    "its embed is no mapping": {"embed": 5},
    "its keyword arguments are no mapping": {"kwargs": [1]},
    "its time limits are no numbers": {"timelimit": ["a", {}]},
    "its time limits are no pair": {"timelimit": 5},
    "its time limit is not a number": {"timelimit": [float("nan"), None]},
    "its time limit is larger than any float": {"timelimit": [10**400, None]},
    "its stamps are no list": {"stamped_headers": 5},
    "its compression is unknown": {"compression": "rot13"},
    "it is rejected, and a link of its chain has no task": {"task": "refuse", "args": [], "embed": {"chain": [{}]}},
    "its task runs out of memory": {"task": "out_of_memory", "args": []},
}


@each_pool
def test_whatever_celery_raises_around_a_task_is_a_dead_letter_and_the_worker_goes_on(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    for poison in POISONS.values():
        for _ in range(3):
            post(queues, **poison)
    queues.send("note", "after")
    queues.start(*pool, "--prefetch-multiplier", "1")
    wait_until(lambda: queues.lines()["after"])
    wait_until(lambda: queues.counts() == (0, 0, 0))
    letters = queues.dead_letters()
    assert len(letters) == 3 * len(POISONS), queues.log()
    assert all(letter["Reason"] and "poison" not in letter["Detail"] for letter in letters)


@each_pool
def test_a_dead_letter_names_what_celery_raised(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    post(queues, embed={"chain": [{}]})
    post(queues, task="refuse", args=[], embed={"chain": [{}]})
    queues.start(*pool)
    letters: list[dict[str, Any]] = []
    wait_until(lambda: letters.extend(queues.dead_letters()) or len(letters) == 2)
    assert sorted(letter["Reason"] for letter in letters) == ["AttributeError", "NotWanted"]


def test_what_cannot_be_decoded_is_a_dead_letter(queues: Queues, wait_until: Callable[..., None]) -> None:
    message = {
        "body": [["x"], {}, {}],
        "content-encoding": "utf-8",
        "headers": {"id": "1", "task": "note"},
        "properties": {"delivery_info": {}},
    }
    queues.sqs.send_message(QueueUrl=queues.url("tasks"), MessageBody=json.dumps(message))
    queues.start(*threads)
    letters: list[dict[str, Any]] = []
    wait_until(lambda: letters.extend(queues.dead_letters()) or letters)
    assert [letter["Reason"] for letter in letters] == ["NotAMessage"]
