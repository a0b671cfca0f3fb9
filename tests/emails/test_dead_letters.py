"""Looking at dead letters leaves them in place, and redriving them never loses one."""

from __future__ import annotations

import logging
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError

from celery_sqs.sqs.batches import MAX_MESSAGE_BYTES
from celery_sqs.sqs.dead_letters import message_bytes
from celery_sqs.sqs.queue import Queue, queue_url
from emails import dead_letters as module
from emails.dead_letters import DeadLetterQueue, ReceivedDeadLetter, dead_letter_queues, dead_letters
from emails.resources import ResourcesMissing, provision
from settings.aws import client
from settings.model import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_sqs import SQSClient

    from settings import Settings

    PutDeadLetter = Callable[..., str]

NOT_JSON = {"Reason": "NotJson", "Detail": "the body is not JSON"}


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_sqs.sqs.batches.FIRST_BACKOFF_SECONDS", 0)


class Letters:
    """The dead letters of one queue of a stage."""

    def __init__(self, settings: Settings, put_dead_letter: PutDeadLetter, source: str) -> None:
        self.source = source
        self._sqs = client("sqs", settings)
        self._settings, self._put = settings, put_dead_letter

    def put(self, body: str, attributes: dict[str, str] | None = None, **parameters: str) -> str:
        return self._put(self.source, body, attributes, **parameters)

    def queue(self) -> DeadLetterQueue:
        queues = dead_letter_queues(self._sqs, self._settings)
        return next(queue for queue in queues if queue.source == self.source)

    def redrive(self, why_useless: Callable[[ReceivedDeadLetter], str] = lambda _: "", **choice: str) -> dict[str, str]:
        """Redrive the chosen dead letters. Return why each of them stays, by id, or "" if it moved."""
        with self.queue() as queue:
            return {letter.message_id: why for letter, why in queue.redrive(why_useless, **choice)}

    def dead(self) -> list[dict[str, Any]]:
        """Receive and delete all visible dead letters."""
        return take(self._sqs, dead_letter_queue(self.source))

    def back(self) -> list[dict[str, Any]]:
        """Receive and delete all visible messages of the queue itself."""
        return take(self._sqs, self.source)


@pytest.fixture
def raw(settings: Settings, put_dead_letter: PutDeadLetter) -> Letters:
    return Letters(settings, put_dead_letter, settings.queue)


@pytest.fixture
def tasks(settings: Settings, put_dead_letter: PutDeadLetter) -> Letters:
    return Letters(settings, put_dead_letter, settings.tasks_queue)


@pytest.fixture
def fifo(emulator: str, settings: Settings, put_dead_letter: PutDeadLetter) -> Letters:
    """Return the dead letters of a FIFO raw queue."""
    stage = settings.model_copy(update={"queue_url": f"{emulator}/000000000000/{settings.queue}.fifo"})
    list(provision(stage))
    return Letters(stage, put_dead_letter, stage.queue)


def take(sqs: SQSClient, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while messages := sqs.receive_message(
        QueueUrl=queue_url(sqs, name) or "",
        MaxNumberOfMessages=10,
        MessageAttributeNames=["All"],
        MessageSystemAttributeNames=["All"],
    ).get("Messages"):
        found += [dict(message) for message in messages]
    return found


def test_dead_letters_of_every_queue_are_seen_and_stay(
    raw: Letters, tasks: Letters, sqs: SQSClient, settings: Settings
) -> None:
    unread_id = raw.put("no JSON", {**NOT_JSON, "Team": "shop"})
    killers = {tasks.put(f"killer {number}") for number in range(12)}
    for _ in range(2):
        found = list(dead_letters(sqs, settings))
        (unread,) = (letter for letter in found if letter.body == "no JSON")
        assert (unread.message_id, unread.queue) == (unread_id, dead_letter_queue(settings.queue))
        assert (unread.reason, unread.detail) == ("NotJson", "the body is not JSON")
        assert {name: value["StringValue"] for name, value in unread.attributes.items()} == {"Team": "shop"}
        rest = [letter for letter in found if letter is not unread]
        assert len(rest) == 12
        assert {letter.message_id for letter in rest} == killers
        assert {(letter.queue, letter.reason) for letter in rest} == {
            (dead_letter_queue(settings.tasks_queue), "MaxReceives")
        }


def test_without_dead_letters_there_is_nothing_to_see(sqs: SQSClient, settings: Settings) -> None:
    assert list(dead_letters(sqs, settings)) == []


def test_a_queue_that_is_missing_is_named_with_the_command_that_makes_it(sqs: SQSClient, settings: Settings) -> None:
    name = dead_letter_queue(settings.tasks_queue)
    sqs.delete_queue(QueueUrl=queue_url(sqs, name) or "")
    with pytest.raises(ResourcesMissing, match=f"{name}: .*email-service provision"):
        list(dead_letters(sqs, settings))


def test_what_was_looked_at_is_visible_at_once_though_the_look_was_interrupted(raw: Letters) -> None:
    ids = {raw.put(str(number)) for number in range(15)}

    def look() -> None:
        with raw.queue() as queue:
            for _ in queue.read():
                assert len(raw.dead()) == 5, "ten are held"
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look()
    # The other five are held by `raw.dead()` above.
    assert len({message["MessageId"] for message in raw.dead()} & ids) == 10


def test_what_sqs_hands_over_in_the_moment_of_a_ctrl_c_is_visible_at_once_too(
    raw: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.put("x")
    receive = Queue.receive

    def interrupted(*arguments: Any) -> list[dict[str, Any]]:
        messages = receive(*arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return messages

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            raw.redrive()
    assert len(raw.dead()) == 1


def test_a_look_that_takes_longer_than_messages_are_hidden_comes_to_an_end(
    raw: Letters, sqs: SQSClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VISIBILITY_SECONDS", 0)
    ids = {raw.put(str(number)) for number in range(3)}
    found = [letter.message_id for letter in dead_letters(sqs, settings)]
    assert (len(found), set(found)) == (3, ids)


def test_one_that_is_found_ends_the_look_and_what_is_gone_is_not_given_back(
    raw: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [raw.put(str(number)) for number in range(25)]
    requests: list[int] = []
    receive, change = Queue.receive, Queue.change_visibility_batch
    monkeypatch.setattr(Queue, "receive", lambda *arguments: requests.append(0) or receive(*arguments))
    monkeypatch.setattr(
        Queue, "change_visibility_batch", lambda queue, batch: requests.append(len(batch)) or change(queue, batch)
    )
    assert raw.redrive(message_id=ids[0]) == {ids[0]: ""}
    assert requests == [0, 9]


def test_what_cannot_be_given_back_is_said(
    raw: Letters, sqs: SQSClient, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raw.put("x")

    def away(*_: object) -> list[str]:
        raise EndpointConnectionError(endpoint_url="http://sqs")

    monkeypatch.setattr(Queue, "change_visibility_batch", away)
    with caplog.at_level(logging.WARNING):
        assert len(list(dead_letters(sqs, settings))) == 1
    assert "1 messages of " in caplog.text
    assert "hidden for up to 300 seconds" in caplog.text


def test_a_repr_shows_no_content_and_a_terminal_no_control_characters() -> None:
    message = {"Body": "private", "MessageId": "1", "MessageAttributes": {"Reason": {"StringValue": "a\x1b[2J\nb"}}}
    found = ReceivedDeadLetter("q_dlq", message)
    assert "private" not in repr(found)
    assert found.reason == r"a\x1b[2J b"


def test_a_redrive_moves_all_to_the_source_with_the_producers_attributes_and_not_ours(raw: Letters) -> None:
    ids = {raw.put(f"body {number}", {**NOT_JSON, "Team": "shop"}) for number in range(23)}
    assert raw.redrive() == dict.fromkeys(ids, "")
    moved = raw.back()
    assert sorted(message["Body"] for message in moved) == sorted(f"body {number}" for number in range(23))
    for message in moved:
        assert {name: value["StringValue"] for name, value in message["MessageAttributes"].items()} == {"Team": "shop"}
    assert raw.dead() == []


@pytest.mark.parametrize("choice", ["reason", "message_id"])
def test_a_redrive_of_one_reason_or_one_id_leaves_the_rest_visible(raw: Letters, choice: str) -> None:
    for number in range(11):
        raw.put(f"rest {number}", {"Reason": "NoEmailId", "Detail": "x"})
    chosen = raw.put("chosen", NOT_JSON)
    assert raw.redrive(**{choice: {"reason": "NotJson", "message_id": chosen}[choice]}) == {chosen: ""}
    assert [message["Body"] for message in raw.back()] == ["chosen"]
    assert len(raw.dead()) == 11


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=["Ctrl-C", "another"])
def test_interrupted_between_send_and_delete_a_message_is_twice_and_a_second_redrive_ends_it(
    raw: Letters, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    bodies = {f"body {number}" for number in range(13)}
    for body in bodies:
        raw.put(body)

    def interrupted(*_: object) -> list[str]:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "delete_batch", interrupted)
        with pytest.raises(type(error)):
            raw.redrive()
    assert len(raw.redrive()) == 13, "all are visible at once"
    found = [message["Body"] for message in raw.back()]
    assert set(found) == bodies
    assert len(found) == 13 + 10
    assert raw.dead() == []


def test_what_the_source_queue_refuses_is_named_and_stays_alone(raw: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {f"body {number}": raw.put(f"body {number}") for number in range(12)}
    send_batch = Queue.send_batch

    def refusing(queue: Queue, batch: list[dict[str, Any]]) -> list[str]:
        good = [entry for entry in batch if entry["MessageBody"] != "body 3"]
        codes = iter(send_batch(queue, good) if good else [])
        return [next(codes) if entry in good else "InternalError" for entry in batch]

    monkeypatch.setattr(Queue, "send_batch", refusing)
    found = raw.redrive()
    assert found == dict.fromkeys(ids.values(), "") | {ids["body 3"]: "SQS did not accept it: InternalError"}
    assert [message["Body"] for message in raw.dead()] == ["body 3"]
    assert len(raw.back()) == 11


def test_what_is_sent_and_not_deleted_is_named(
    raw: Letters, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id = raw.put("x")

    def away(*_: object) -> list[str]:
        raise EndpointConnectionError(endpoint_url="http://sqs")

    monkeypatch.setattr(Queue, "delete_batch", away)
    assert raw.redrive() == {
        message_id: f"it was sent to {settings.queue}, but SQS did not delete it here: EndpointConnectionError"
    }
    assert len(raw.back()) == len(raw.dead()) == 1


def test_a_message_at_the_size_limit_with_ten_attributes_is_moved_as_it_is(raw: Letters) -> None:
    attributes = {f"name-{number}": "text" for number in range(10)}
    typed = {name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()}
    room = MAX_MESSAGE_BYTES - message_bytes({"MessageBody": "", "MessageAttributes": typed})
    ids = [raw.put("x" * room, attributes) for _ in range(3)]
    assert raw.redrive() == dict.fromkeys(ids, "")
    moved = raw.back()
    assert [len(message["Body"]) for message in moved] == [room] * 3
    assert all(message["MessageAttributes"].keys() == attributes.keys() for message in moved)


def test_a_fifo_queues_message_keeps_its_group_and_is_not_taken_for_a_duplicate(fifo: Letters, sqs: SQSClient) -> None:
    url = queue_url(sqs, fifo.source) or ""

    def arrived() -> list[tuple[str, str]]:
        found = []
        while messages := fifo.back():
            found += [(message["Body"], message["Attributes"]["MessageGroupId"]) for message in messages]
            for message in messages:  # SQS delivers no further messages of a group while some of it are in flight
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return sorted(found)

    expected = sorted((str(number), f"group-{number % 3}") for number in range(12))
    for body, group in expected:
        parameters = {"MessageGroupId": group, "MessageDeduplicationId": f"producer-{body}"}
        sqs.send_message(QueueUrl=url, MessageBody=body, **parameters)  # type: ignore[arg-type]  # these parameters are FIFO's
        fifo.put(body, **parameters)
    assert arrived() == expected
    assert list(fifo.redrive().values()) == [""] * 12
    assert arrived() == expected


def test_a_message_that_would_do_nothing_stays_with_the_reason_and_the_others_are_moved(raw: Letters) -> None:
    useless = {raw.put("useless"): "nobody wants it"}
    useful = {raw.put("useful"): ""}
    assert raw.redrive(lambda letter: useless.get(letter.message_id, "")) == useless | useful
    assert [message["Body"] for message in raw.dead()] == ["useless"]
    assert [message["Body"] for message in raw.back()] == ["useful"]


def test_a_message_that_workers_refuse_again_at_once_is_redriven_once(
    raw: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_batch, refused = Queue.send_batch, []

    def to_and_fro(queue: Queue, batch: list[dict[str, Any]]) -> list[str]:
        assert len(refused) < 100
        refused.extend(raw.put(entry["MessageBody"], NOT_JSON) for entry in batch)
        return send_batch(queue, batch)

    monkeypatch.setattr(Queue, "send_batch", to_and_fro)
    ids = {raw.put(f"body {number}", NOT_JSON) for number in range(12)}
    assert raw.redrive() == dict.fromkeys(ids, "")
    assert len(refused) == 12
