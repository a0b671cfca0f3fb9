"""SQS denies access to a queue of another app, or to one that the worker needs itself."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from celery import signature

from celery_sqs.exceptions import PublishDenied, PublishRefused
from tests.celery_sqs.pools import each_pool, threads
from tests.support.proxy import Proxy, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.celery_sqs.conftest import Queues


class Policy:
    """Denies actions: each key is the start of an action's name, and its value the end of a queue's name."""

    def __init__(self) -> None:
        self.denied: dict[str, str] = {}
        self.code = "AccessDenied"
        self.answered: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def __call__(self, service: str, action: str, body: bytes) -> str:
        request = json.loads(body or b"{}")
        queue = request.get("QueueName") or request.get("QueueUrl", "")
        for denied, name in self.denied.items():
            if action.startswith(denied) and queue.endswith(name):
                self.refused[denied] += 1
                return self.code
        self.answered[action] += 1
        return ""


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
def endpoint(queues: Queues, policy: Policy) -> Iterator[str]:
    """Return the URL of an SQS that applies the policy."""
    with running(Proxy(queues.endpoint, policy)) as proxy:
        yield queues.broker_url(proxy.url)


@pytest.fixture(
    params=["SendMessage: AccessDenied", pytest.param("GetQueueUrl: KMS.AccessDeniedException", marks=pytest.mark.slow)]
)
def denied(request: pytest.FixtureRequest, queues: Queues, policy: Policy) -> str:
    """Return SQS's answer when access to another app's queue is denied."""
    queues.create_queue("others")
    action, policy.code = request.param.split(": ")
    policy.denied = {action: "-others"}
    return f"{queues.prefix}others: {policy.code}"


@each_pool
def test_a_task_that_publishes_to_a_forbidden_queue_of_others_is_a_dead_letter(
    queues: Queues, endpoint: str, denied: str, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    child = signature("note", ("child",), queue="others", immutable=True, app=queues.app)
    queues.send("note", "parent", chain=[child])
    queues.send("note", "after")
    queues.start(*pool, BROKER_URL=endpoint)
    letters: list[dict[str, Any]] = []
    wait_until(lambda: letters.extend(queues.dead_letters()) or letters)
    wait_until(lambda: queues.lines()["after"])
    assert [letter["Reason"] for letter in letters] == ["ChildRefused"]
    assert denied in letters[0]["Detail"]
    wait_until(lambda: queues.counts() == (0, 0, 0))


def denied_for_a_while(queues: Queues, policy: Policy, denied: dict[str, str], wait_until: Callable[..., None]) -> None:
    """Deny the action until the worker has noticed, count its requests for 5 seconds, and then allow everything."""
    policy.denied = denied
    (action,) = denied
    wait_until(lambda: policy.refused[action] and "nothing is received until access is allowed" in queues.log())
    policy.refused.clear()
    policy.answered.clear()
    deadline = time.monotonic() + 5
    wait_until(lambda: time.monotonic() > deadline)
    assert policy.refused[action] <= 10, "it spins"
    assert policy.answered["ReceiveMessage"] <= 4, "it goes on to receive"
    assert queues.dead_letters() == []
    policy.denied = {}


@pytest.mark.slow
@each_pool
def test_while_our_own_queue_may_not_be_sent_to_nothing_is_received_and_nothing_is_lost(
    queues: Queues, policy: Policy, endpoint: str, pool: tuple[str, ...], wait_until: Callable[..., None]
) -> None:
    for number in range(40):
        queues.send("tree", f"root{number}", 2)
    queues.start(*pool, BROKER_URL=endpoint, TRANSPORT_OPTIONS=json.dumps({"hand_off": False}))
    denied_for_a_while(queues, policy, {"SendMessage": "-tasks"}, wait_until)
    wait_until(lambda: len(queues.lines()) == 3 * 40, seconds=120)
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert queues.dead_letters() == []
    if "prefork" not in pool:  # a prefork worker may run a task again, because each process publishes for itself
        assert set(queues.lines().values()) == {1}


@pytest.mark.slow
def test_while_our_own_messages_may_not_be_deleted_nothing_is_received_and_nothing_runs_twice(
    queues: Queues, policy: Policy, endpoint: str, wait_until: Callable[..., None]
) -> None:
    for number in range(60):
        queues.send("note", f"note{number}")
    queues.start(*threads, BROKER_URL=endpoint)
    denied_for_a_while(queues, policy, {"DeleteMessage": "-tasks"}, wait_until)
    wait_until(lambda: queues.counts() == (0, 0, 0))
    assert queues.lines() == {f"note{number}": 1 for number in range(60)}


@pytest.mark.slow
def test_that_visibility_may_not_be_kept_is_no_reason_to_spin(
    queues: Queues, policy: Policy, endpoint: str, wait_until: Callable[..., None]
) -> None:
    policy.denied = {"ChangeMessageVisibility": "-tasks"}
    queues.send("nap", "n", 8)
    queues.start(*threads, BROKER_URL=endpoint, VISIBILITY_TIMEOUT="12")
    wait_until(lambda: queues.lines()["end n"])
    assert 0 < policy.refused["ChangeMessageVisibility"] <= 8


@pytest.mark.parametrize(("queue", "error"), [("tasks", PublishDenied), ("others", PublishRefused)])
def test_a_publish_outside_of_a_task_says_at_once_that_it_is_denied(
    queues: Queues, policy: Policy, endpoint: str, queue: str, error: type[Exception]
) -> None:
    queues.create_queue("others")
    queues.app.set_current()
    for action in ("SendMessage", "GetQueueUrl"):
        policy.denied = {action: f"-{queue}"}
        with queues.app.connection_for_write(endpoint) as connection:
            producer = connection.Producer()
            with pytest.raises(error, match=f"{queues.prefix}{queue}: AccessDenied"):
                producer.publish({}, routing_key=queue, retry=True)
    assert policy.refused == {"SendMessage": 1, "GetQueueUrl": 1}
