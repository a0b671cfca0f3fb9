"""Control queues: how they are named and found, and when they are deleted."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import kombu
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox

from celery_sqs import control_queues
from celery_sqs.control_queues import ControlQueue, ControlQueues
from celery_sqs.sqs import leased_queues
from celery_sqs.sqs.leased_queues import LEASE_TAG, MAX_NAME_LENGTH, reap
from celery_sqs.transport import Transport
from tests.support.proxy import Dropped, Proxy, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.celery_sqs.conftest import Queues

EVENTS, COMMANDS, REPLIES = "celeryev", "celery.pidbox", "reply.celery.pidbox"


@pytest.fixture
def make(queues: Queues) -> Iterator[Callable[..., ControlQueues]]:
    """Return a function that makes the control queues of another process."""
    made: list[ControlQueues] = []

    def one(**options: Any) -> ControlQueues:
        made.append(
            ControlQueues(
                f"{queues.prefix}control-",
                **{"client": lambda: queues.sqs, "poll_client": lambda: queues.sqs, "attributes": {}, "tags": {}}
                | options,
            )
        )
        return made[-1]

    yield one
    for each in made:
        each.exit()


def names(queues: Queues) -> list[str]:
    urls = queues.sqs.list_queues(QueueNamePrefix=f"{queues.prefix}control-").get("QueueUrls", [])
    return [url.rpartition("/")[2] for url in urls]


def tags_of(queues: Queues, queue: ControlQueue | None) -> dict[str, str]:
    assert queue
    return queues.sqs.list_queue_tags(QueueUrl=queue.url)["Tags"]


def end_lease(queues: Queues, queue: ControlQueue | None) -> None:
    assert queue
    queues.sqs.tag_queue(QueueUrl=queue.url, Tags={LEASE_TAG: str(int(time.time()) - 1)})


def test_a_broadcast_reaches_the_queue_of_every_process_and_no_other(make: Callable[..., ControlQueues]) -> None:
    one, two, other = make(), make(), make()
    one.open("one", COMMANDS, "")
    two.open("two", COMMANDS, "")
    other.open("other", f"{COMMANDS}_too", "")
    make().broadcast(COMMANDS, "hello")
    received = {
        name: [m["Body"] for m in queue.receive(10, 0, 30)]
        for name, queue in {"one": one.get("one"), "two": two.get("two"), "other": other.get("other")}.items()
        if queue
    }
    assert received == {"one": ["hello"], "two": ["hello"], "other": []}


def test_a_reply_reaches_the_queue_of_its_routing_key(make: Callable[..., ControlQueues]) -> None:
    caller = make()
    caller.open("replies", REPLIES, "key-1")
    make().reply(REPLIES, "key-1", "pong")
    queue = caller.get("replies")
    assert queue
    assert [m["Body"] for m in queue.receive(10, 0, 30)] == ["pong"]


def test_a_reply_to_a_caller_who_has_gone_makes_no_queue(make: Callable[..., ControlQueues], queues: Queues) -> None:
    caller, worker = make(), make()
    caller.open("replies", REPLIES, "key-1")
    worker.reply(REPLIES, "key-1", "pong")
    caller.exit()
    for key in ("key-1", "key-1", "key-2"):
        with pytest.raises(ClientError):
            worker.reply(REPLIES, key, "pong")
    assert names(queues) == []


def test_the_urls_of_callers_who_have_gone_are_forgotten(
    make: Callable[..., ControlQueues], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_queues, "REPLY_URLS", 3)
    caller, worker = make(), make()
    for number in range(10):
        caller.open(f"replies {number}", REPLIES, f"key-{number}")
        worker.reply(REPLIES, f"key-{number}", "pong")
    assert len(worker._reply_urls) <= 3


def test_a_command_that_one_queue_does_not_take_reaches_the_others(
    make: Callable[..., ControlQueues], queues: Queues
) -> None:
    """The queue that refuses it is full, or has its own policy."""
    refuser, other = make(), make()
    refuser.open("refuser", COMMANDS, "")
    other.open("other", COMMANDS, "")
    refusing, taking = refuser.get("refuser"), other.get("other")
    assert refusing
    assert taking
    client = Refusing(queues.sqs, refusing.url)
    make(client=lambda: client).broadcast(COMMANDS, "hello")
    assert [m["Body"] for m in taking.receive(10, 0, 30)] == ["hello"]
    assert client.refused == control_queues.SEND_ATTEMPTS


def test_a_command_that_no_queue_takes_is_an_error_that_kombu_does_not_retry(
    make: Callable[..., ControlQueues], queues: Queues
) -> None:
    refuser = make()
    refuser.open("refuser", COMMANDS, "")
    refusing = refuser.get("refuser")
    assert refusing
    client = Refusing(queues.sqs, refusing.url)
    with pytest.raises(OperationalError, match="AccessDenied"):
        make(client=lambda: client).broadcast(COMMANDS, "hello")
    assert not issubclass(OperationalError, Transport.recoverable_connection_errors)


class Refusing:
    """A client that SQS does not allow to send to one queue."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def send_message(self, **parameters: Any) -> Any:
        if parameters["QueueUrl"] == self._url:
            self.refused += 1
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "SendMessage")
        return self._client.send_message(**parameters)


def test_a_process_takes_its_queues_with_it(make: Callable[..., ControlQueues], queues: Queues) -> None:
    control = make()
    control.open("commands", COMMANDS, "")
    control.open("events", EVENTS, "#")
    assert len(names(queues)) == 2
    control.exit()
    assert names(queues) == []


def test_a_queue_says_whose_it_is_and_keeps_messages_a_minute(
    make: Callable[..., ControlQueues], queues: Queues
) -> None:
    control = make(
        attributes={"KmsMasterKeyId": "alias/a", "FifoQueue": "true", "RedrivePolicy": "{}", "VisibilityTimeout": "7"},
        tags={"team": "mail"},
    )
    control.open("commands", COMMANDS, "")
    queue = control.get("commands")
    assert queue
    attributes = queues.sqs.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["All"])["Attributes"]
    assert (attributes["MessageRetentionPeriod"], attributes["VisibilityTimeout"]) == ("60", "7")
    assert attributes["KmsMasterKeyId"] == "alias/a"
    assert "FifoQueue" not in attributes
    tags = tags_of(queues, queue)
    assert (tags["team"], tags["celery_sqs:exchange"]) == ("mail", COMMANDS)
    assert {"celery_sqs:host", "celery_sqs:pid", LEASE_TAG} <= tags.keys()


def test_a_lease_is_renewed(make: Callable[..., ControlQueues], queues: Queues) -> None:
    control = make()
    control.open("commands", COMMANDS, "")
    end_lease(queues, control.get("commands"))
    control.renew()
    assert int(tags_of(queues, control.get("commands"))[LEASE_TAG]) > time.time()


def test_a_queue_that_somebody_deleted_is_made_anew(make: Callable[..., ControlQueues], queues: Queues) -> None:
    control = make()
    control.open("commands", COMMANDS, "")
    queue = control.get("commands")
    assert queue
    queues.sqs.delete_queue(QueueUrl=queue.url)
    control.renew()
    make().broadcast(COMMANDS, "hello")
    assert [m["Body"] for m in queue.receive(10, 0, 30)] == ["hello"]


def test_a_queue_that_cannot_be_made_anew_costs_no_other_its_lease(
    make: Callable[..., ControlQueues], queues: Queues
) -> None:
    client = Denied(queues.sqs)
    client.allowed = True
    control = make(client=lambda: client)
    control.open("events", EVENTS, "#")
    control.open("commands", COMMANDS, "")
    deleted, kept = control.get("events"), control.get("commands")
    assert deleted
    queues.sqs.delete_queue(QueueUrl=deleted.url)
    end_lease(queues, kept)
    client.allowed = False
    control.renew()
    assert int(tags_of(queues, kept)[LEASE_TAG]) > time.time()


def test_reap_goes_on_after_a_queue_that_refuses_and_then_says_so(
    make: Callable[..., ControlQueues], queues: Queues
) -> None:
    for exchange in (EVENTS, COMMANDS):
        crashed = make()
        crashed.open("queue", exchange, "#")
        end_lease(queues, crashed.get("queue"))
    first, second = names(queues)

    class RefusesTheFirst:
        def __getattr__(self, name: str) -> Any:
            return getattr(queues.sqs, name)

        def list_queue_tags(self, QueueUrl: str) -> Any:  # noqa: N803 (the name is boto3's)
            if QueueUrl.endswith(first):
                raise ClientError({"Error": {"Code": "AccessDenied"}}, "ListQueueTags")
            return queues.sqs.list_queue_tags(QueueUrl=QueueUrl)

    reaping = reap(RefusesTheFirst(), f"{queues.prefix}control-")
    assert next(reaping) == second
    with pytest.raises(ClientError, match="AccessDenied"):
        next(reaping)
    assert names(queues) == [first]


def test_reap_deletes_what_a_crash_left_and_nothing_else(make: Callable[..., ControlQueues], queues: Queues) -> None:
    crashed, alive = make(), make()
    for control in (crashed, alive):
        control.open("commands", COMMANDS, "")
    queues.sqs.create_queue(QueueName=f"{queues.prefix}control-of-somebody-else")
    tagged = queues.sqs.create_queue(QueueName=f"{queues.prefix}control-tagged", tags={LEASE_TAG: "1"})
    left = crashed.get("commands")
    end_lease(queues, left)
    assert left
    prefix = f"{queues.prefix}control-"
    assert list(reap(queues.sqs, prefix, dry_run=True)) == [left.name]
    assert left.name in names(queues)
    assert list(reap(queues.sqs, prefix)) == [left.name]
    assert list(reap(queues.sqs, prefix)) == []
    assert len(names(queues)) == 3
    assert tagged["QueueUrl"].rpartition("/")[2] in names(queues)


class Denied:
    """A client that SQS does not allow to create queues, until the test allows it."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.allowed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def create_queue(self, **parameters: Any) -> Any:
        if not self.allowed:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "CreateQueue")
        return self._client.create_queue(**parameters)


def test_a_worker_works_without_a_queue_for_commands_and_makes_it_once_it_may(
    make: Callable[..., ControlQueues], queues: Queues
) -> None:
    client = Denied(queues.sqs)
    control = make(client=lambda: client)
    control.open("commands", COMMANDS, "")
    control.renew()
    queue = control.get("commands")
    assert queue
    with pytest.raises(ClientError):  # the poller will retry
        queue.receive(10, 0, 30)
    client.allowed = True
    queue.receive(10, 0, 30)
    make().broadcast(COMMANDS, "hello")
    assert [m["Body"] for m in queue.receive(10, 0, 30)] == ["hello"]


def test_who_asks_hears_that_it_may_not(make: Callable[..., ControlQueues], queues: Queues) -> None:
    control = make(client=lambda: Denied(queues.sqs))
    with pytest.raises(ClientError):
        control.open("replies", REPLIES, "key-1")
    assert control.get("replies") is None


def test_reap_finds_queues_whose_prefix_was_too_long_for_a_name(queues: Queues) -> None:
    prefix = f"{queues.prefix}{'x' * 70}_control_"
    crashed = ControlQueues(prefix, lambda: queues.sqs, lambda: queues.sqs, {}, {})
    crashed.open("replies", REPLIES, "key-1")
    left = crashed.get("replies")
    end_lease(queues, left)
    assert left
    assert list(reap(queues.sqs, prefix)) == [left.name]


@given(prefix=st.text(max_size=90), exchange=st.text(max_size=90), nonce=st.text())
def test_every_name_is_one_that_sqs_takes(prefix: str, exchange: str, nonce: str) -> None:
    name = leased_queues.queue_name(prefix + exchange, nonce)
    assert len(name) <= MAX_NAME_LENGTH
    assert name.isascii()
    assert name.replace("-", "").replace("_", "").isalnum()
    assert name.rpartition("_")[0] == leased_queues.name_start(prefix + exchange)


def test_long_beginnings_that_differ_at_the_end_differ_still() -> None:
    assert len({leased_queues.name_start("x" * 100 + end) for end in "abc"}) == 3


def command(message_id: Any = None, body: Any = '{"method": "pool_grow"}', **headers: Any) -> dict[str, Any]:
    return {"body": body, "headers": {"clock": 1, **headers}, "properties": {"message_id": message_id}}


@pytest.fixture
def commands() -> ControlQueue:
    return ControlQueue(lambda: None, COMMANDS, lambda: ("q", "http://sqs/q"))


def test_a_command_is_taken_once_and_not_past_its_expires(commands: ControlQueue) -> None:
    now = time.time()
    assert commands.is_timely(command("a", expires=now + 1))
    assert not commands.is_timely(command("a", expires=now + 1))
    assert commands.is_timely(command("b", expires=now - 1)), "clocks differ, and SQS takes its time"
    assert not commands.is_timely(command("c", expires=now - 60))
    assert commands.is_timely(command("d", expires=0)), "0 is no expires"


def test_a_command_of_a_sender_that_names_no_message_is_known_by_its_content(commands: ControlQueue) -> None:
    assert commands.is_timely(command())
    assert not commands.is_timely(command())
    assert commands.is_timely(command(clock=2))


@pytest.mark.parametrize("value", ["soon", [1], {"a": 1}, None, True, 10**400, -(10**400), float("nan"), float("inf")])
def test_a_command_of_any_content_is_judged(commands: ControlQueue, value: Any) -> None:
    """An error here would end the thread that receives the commands."""
    for message in (command(value, clock=0), command("a", expires=value), command(clock=value), command(body=value)):
        commands.is_timely(message)


def test_what_it_remembers_is_bounded(commands: ControlQueue) -> None:
    for clock in range(control_queues.REMEMBERED + 50):
        commands.is_timely(command(clock=clock))
    assert len(commands._seen) == control_queues.REMEMBERED


def broadcast(queues: Queues, endpoint: str) -> None:
    """Tell the workers something from a new process, where the Lamport clock starts again."""
    options = queues.app.conf.broker_transport_options | {"control_queue_prefix": "control-"}
    url, transport = queues.broker_url(endpoint), "celery_sqs.transport:Transport"
    with kombu.Connection(url, transport=transport, transport_options=options) as connection:
        Mailbox("celery", type="fanout")(connection).abcast("pool_restart")


def ids(queue: ControlQueue | None) -> list[str]:
    """Return the ids of the queue's messages."""
    assert queue
    bodies = [b64decode(message["Body"]) for message in queue.receive(10, 0, 30)]
    return [json.loads(body)["properties"]["message_id"] for body in bodies]


def test_two_processes_may_say_the_same(make: Callable[..., ControlQueues], queues: Queues) -> None:
    worker = make()
    worker.open("commands", COMMANDS, "")
    broadcast(queues, queues.endpoint)
    broadcast(queues, queues.endpoint)
    assert len(set(ids(worker.get("commands")))) == 2


def test_a_command_that_is_sent_again_because_an_answer_was_lost_is_the_same(
    make: Callable[..., ControlQueues], queues: Queues
) -> None:
    workers = [make(), make()]
    for worker in workers:
        worker.open("commands", COMMANDS, "")
    unlucky = workers[0].get("commands")
    assert unlucky
    lost: list[bytes] = []

    def lose_an_answer(_: str, action: str, body: bytes) -> str:
        if unlucky.name.encode() in body and action == "SendMessage" and not lost:
            lost.append(body)
            queues.sqs.send_message(**json.loads(body))
            raise Dropped
        return ""

    with running(Proxy(queues.endpoint, lose_an_answer)) as proxy:
        broadcast(queues, proxy.url)
    found = [ids(worker.get("commands")) for worker in workers]
    assert list(map(len, found)) == [2, 1]
    assert len({each for one in found for each in one}) == 1
