"""Whatever is on a tasks queue, each message runs, is dead-lettered or waits for its ETA, and the worker keeps going.

The messages are random, except in CI, where hypothesis always takes the same examples. `--hypothesis-seed=7` replays a
run's messages.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from celery_sqs import delays
from tests.celery_sqs.pools import POOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.celery_sqs.conftest import Queues

pytestmark = pytest.mark.slow

EXAMPLES = 100
SECONDS = 75  # per pool; whatever takes longer is left out
BATCH_SIZE = 25  # messages, after which a canary task has to run

TASKS = ["note", "again", "refuse", "boom", "celery.backend_cleanup", "celery.chord_unlock", "celery.map", "os.system"]
WORDS = st.sampled_from(
    ["", "x", "note", "chord", "group", "tasks", "2020-01-01T00:00:00", "9999-12-31", "utf-8", "gzip"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | WORDS
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
KEYS = WORDS | st.sampled_from(["task", "args", "kwargs", "options", "chain", "id", "body", "header", "task_id"])
JUNK = st.recursive(
    SCALARS, lambda some: st.lists(some, max_size=3) | st.dictionaries(KEYS, some, max_size=3), max_leaves=6
)
SIGNATURES = st.fixed_dictionaries(
    {"task": st.sampled_from(TASKS) | JUNK},
    optional={
        "args": JUNK,
        "kwargs": JUNK,
        "options": st.dictionaries(
            st.sampled_from(["task_id", "chord", "group_id", "link", "countdown"]), JUNK, max_size=2
        ),
        "subtask_type": st.sampled_from(["chain", "group", "chord"]) | JUNK,
        "immutable": JUNK,
        "chord_size": JUNK,
    },
)
LINKS = st.lists(SIGNATURES | JUNK, max_size=3) | JUNK

# Very short time limits are left out. With them each attempt would be cut off and correctly started again.
LIMITS = (
    st.lists(st.sampled_from([None, 100, 1e9, float("inf"), float("nan"), 10**400, "1", [], True]), max_size=3) | WORDS
)

HEADERS = {
    "task": st.sampled_from(TASKS) | JUNK,
    "eta": st.sampled_from(["2020-01-01T00:00:00+00:00", "2020-01-01", "2999-01-01T00:00:00+00:00"]) | JUNK,
    "expires": st.sampled_from(["2020-01-01T00:00:00+00:00", "2999-01-01T00:00:00"]) | JUNK,
    "timelimit": LIMITS,
    "stamped_headers": st.lists(JUNK, max_size=2) | JUNK,
    "stamps": JUNK,
} | dict.fromkeys(
    (
        "id",
        "root_id",
        "parent_id",
        "group",
        "group_index",
        "lang",
        "shadow",
        "retries",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "ignore_result",
        "replaced_task_nesting",
        "meth",
        "redelivered",
        "x-anything",
    ),
    JUNK,
)
EMBED = {"chain": LINKS, "callbacks": LINKS, "errbacks": LINKS, "chord": SIGNATURES | JUNK} | dict.fromkeys(
    (
        "args",
        "kwargs",
        "id",
        "task",
        "retries",
        "is_eager",
        "delivery_info",
        "hostname",
        "group",
        "reply_to",
        "utc",
        "eta",
    ),
    JUNK,
)
PROPERTIES = {"body_encoding": st.sampled_from(["base64", "utf-8"]) | JUNK} | dict.fromkeys(
    ("correlation_id", "reply_to", "priority", "delivery_mode", "delivery_tag", "delivery_info", "MessageGroupId"), JUNK
)
CONTENT_TYPES = st.sampled_from(
    ["application/json", "application/x-yaml", "application/data", "text/plain", "application/x-python-serialize"]
)


def some_of(values: dict[str, st.SearchStrategy[Any]], most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """Draw a few of the values, by name."""
    names = st.lists(st.sampled_from(sorted(values)), max_size=most, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: values[name] for name in chosen}))


def mostly(value: object) -> st.SearchStrategy[Any]:
    """Draw the value, or occasionally junk. With several pieces of junk, one would hide the effect of another."""
    return one_in(8, JUNK, st.just(value))


def one_in(count: int, rare: st.SearchStrategy[Any], usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    # Junk is the last of the numbers, because hypothesis draws the first more often than the others.
    return st.sampled_from(range(count)).flatmap(lambda number: rare if number == count - 1 else usual)


@st.composite
def protocol_2(draw: st.DrawFn) -> Any:
    body = [draw(mostly(["x"])), draw(mostly({})), draw(one_in(8, JUNK, some_of(EMBED)))]
    task_id = str(uuid.uuid4())
    return {
        "body": draw(mostly(json.dumps(draw(mostly(body))))),
        "content-encoding": draw(mostly("utf-8")),
        "content-type": draw(one_in(8, CONTENT_TYPES | JUNK, st.just("application/json"))),
        "headers": {"task": "note", "id": task_id, "lang": "py"} | draw(some_of(HEADERS)),
        "properties": {"delivery_info": {}, "delivery_tag": task_id} | draw(some_of(PROPERTIES, most=1)),
    }


@st.composite
def protocol_1(draw: st.DrawFn) -> Any:
    task_id = str(uuid.uuid4())
    body = {"task": "note", "id": task_id, "args": draw(mostly(["x"])), "kwargs": draw(mostly({}))}
    body |= draw(some_of({name: junk for name, junk in (HEADERS | EMBED).items() if name not in {"eta", "args"}}))
    is_hybrid = draw(st.booleans())  # the format that Celery 3 wrote for Celery 4
    return {
        "body": json.dumps(body),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "note"} | draw(some_of(HEADERS)) if is_hybrid else {},
        "properties": {"delivery_info": {}, "delivery_tag": task_id},
    }


MESSAGES = one_in(12, JUNK, one_in(5, protocol_1(), protocol_2()))


def may_wait(message: Any) -> bool:
    headers = message.get("headers") if isinstance(message, dict) else None
    return isinstance(headers, dict) and delays.is_early(headers)


class Batch:
    """Messages that were sent. `unended` has those without a known end, by SQS MessageId."""

    def __init__(self, queues: Queues, messages: list[Any]) -> None:
        self._queues = queues
        self._nonces: dict[str, str] = {}  # a dead letter has a new MessageId, but keeps its attributes
        self.unended: dict[str, Any] = {}
        self.dead = 0
        url = queues.url("tasks")
        for message in messages:
            attributes: Any = {"Nonce": {"DataType": "String", "StringValue": (nonce := uuid.uuid4().hex)}}
            answer = queues.sqs.send_message(
                QueueUrl=url, MessageBody=json.dumps(message), MessageAttributes=attributes
            )
            self._nonces[nonce] = answer["MessageId"]
            if not may_wait(message):
                self.unended[answer["MessageId"]] = message

    def has_ended(self) -> bool:
        """Whether each message ran, was revoked because it had expired, or was dead-lettered, and none is held."""
        for letter in self._queues.dead_letters():
            self.dead += 1
            self.unended.pop(self._nonces.get(letter.get("Nonce", ""), ""), None)
        for line in self._queues.lines():
            if line.startswith(("ran ", "revoked ")):
                self.unended.pop(line.split()[1], None)
        return not self.unended and self._queues.counts()[1] == 0


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_whatever_is_on_a_tasks_queue_none_is_lost_and_the_worker_goes_on(
    queues: Queues, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    worker = queues.start(*pool, JOURNAL_RUNS="1", SEND_EVENTS="1")
    deadline = time.monotonic() + SECONDS
    dead: list[int] = []

    @given(st.lists(MESSAGES, min_size=BATCH_SIZE, max_size=BATCH_SIZE))
    @hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    def take(messages: list[Any]) -> None:
        if time.monotonic() > deadline:
            return
        batch = Batch(queues, messages)
        queues.send("note", canary := uuid.uuid4().hex)
        wait_until(lambda: queues.lines()[canary], what=f"the canary runs after {json.dumps(messages)}")
        try:
            wait_until(batch.has_ended, seconds=30)
        except AssertionError:
            lost = list(batch.unended.values())
            pytest.fail(f"lost: {json.dumps(lost)}\nheld: {queues.counts()}\nof: {json.dumps(messages)}")
        dead.append(batch.dead)

    take()
    assert worker.poll() is None
    ran = sum(line.startswith("ran ") for line in queues.lines())
    assert min(sum(dead), ran) > 5 * BATCH_SIZE, "a test that is worth its time"
