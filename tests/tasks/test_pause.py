"""A paused stage: its workers take no emails and use up no receives, but record callbacks, until it is resumed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError

from celery_sqs.poller import PAUSED_TICK_SECONDS
from celery_sqs.poller import paused_queues as held
from emails.pause import ROW, Pause, StagePause, paused_queues
from emails.store import StoreRefused, StoreUnavailable
from settings.aws import client
from tasks import pause as pause_of_worker
from tasks.pause import READ_EVERY_SECONDS, Follower
from tests.support.pipeline import Pipeline, running_worker
from tests.support.sqs import message_counts
from tests.support.stage import count_sent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from settings import Settings

PAUSE = Pause("2026-11-27T12:00:00+00:00", "ada", "provider down")


class Stage(StagePause):
    """A stage whose pause is what the test says, or cannot be read."""

    def __init__(self, *answers: Pause | BaseException | None) -> None:
        self._answers = list(answers)

    def read(self) -> Pause | None:
        answer = self._answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def _nothing_stays_paused() -> Iterator[None]:
    yield
    held.set(())


def test_a_pause_that_cannot_be_read_keeps_the_last_known_state() -> None:
    down, denied = StoreUnavailable("down"), StoreRefused("denied")
    follower = Follower(Stage(down, PAUSE, down, denied, None), ("q",))
    seen = []
    for _ in range(5):
        follower.look()
        seen.append("q" in held)
    assert seen == [False, True, True, True, False]


def test_each_change_of_the_pause_is_logged_once_with_who_and_why(caplog: pytest.LogCaptureFixture) -> None:
    other = Pause("2026-11-27T13:00:00+00:00", "grace", "still down")
    follower = Follower(Stage(None, PAUSE, PAUSE, other, None, None), ("q",))
    for _ in range(6):
        follower.look()
    assert caplog.messages == [
        "the stage is paused since 2026-11-27T12:00:00+00:00 by ada: provider down; nothing is received but callbacks",
        "the stage is paused since 2026-11-27T13:00:00+00:00 by grace: still down; nothing is received but callbacks",
        "the stage is resumed",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_each_look_gives_back_what_came_meanwhile_and_logs_how_much(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    paused: list[tuple[str, ...]] = []
    given_back = [3, 0, 1, 0]

    def note(queues: tuple[str, ...]) -> int:
        paused.append(queues)
        return given_back.pop(0)

    monkeypatch.setattr(pause_of_worker, "pause_queues", note)
    follower = Follower(Stage(PAUSE, PAUSE, PAUSE, None), ("q",))
    for _ in range(4):
        follower.look()
    assert paused == [("q",), ("q",), ("q",), ()]
    assert [message for message in caplog.messages if "gave back" in message] == [
        f"gave back {count} messages that had not begun, because the stage is paused" for count in (3, 1)
    ]


def test_a_worker_goes_on_following_the_pause_after_an_unexpected_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pause_of_worker, "READ_EVERY_SECONDS", 0)
    with pytest.raises(SystemExit):  # only this ends the loop
        Follower(Stage(RuntimeError("unforeseen"), PAUSE, SystemExit()), ("q",)).run()
    assert "q" in held
    assert "cannot follow the stage's pause" in caplog.text


def test_a_worker_that_starts_on_a_paused_stage_knows_it_before_it_receives(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pause_of_worker, "get_settings", lambda: settings)
    monkeypatch.setattr(pause_of_worker, "_follower", [])
    StagePause.from_settings(settings).begin("ada", "provider down")
    pause_of_worker.follow()
    assert [queue in held for queue in settings.queues] == [
        queue != settings.callbacks_queue for queue in settings.queues
    ]


def test_workers_follow_a_pause_and_a_resume_within_ten_seconds() -> None:
    assert READ_EVERY_SECONDS + PAUSED_TICK_SECONDS <= 8, "the other two seconds are for the read"


def test_a_row_that_a_person_wrote_without_all_attributes_pauses_too(settings: Settings) -> None:
    client("dynamodb", settings).put_item(TableName=settings.table, Item={"EmailId": {"S": ROW}})
    assert StagePause.from_settings(settings).read() == Pause("unknown", "unknown", "unknown")


def test_a_pause_that_dynamodb_cannot_answer_for_is_unavailable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = StagePause.from_settings(settings)

    def fail(**_: Any) -> None:
        raise EndpointConnectionError(endpoint_url="http://dynamodb")

    monkeypatch.setattr(stage._dynamodb, "get_item", fail)
    with pytest.raises(StoreUnavailable):
        stage.read()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_a_paused_worker_takes_no_emails_until_it_is_resumed(
    pool: str, emulator: str, tmp_path: Path, row: dict[str, Any], wait_until: Callable[..., None]
) -> None:
    liveness = tmp_path / "alive"
    environment = {"EMAIL_LIVENESS_FILE": str(liveness)}
    with running_worker(emulator, tmp_path, environment, "--pool", pool, "--concurrency", "2") as worker:
        pipeline = Pipeline(worker, wait_until)
        stage = StagePause.from_settings(worker.settings)
        wait_until(lambda: "ready." in worker.log(), seconds=60)
        stage.begin("ada", "provider down")
        wait_until(lambda: "by ada: provider down" in worker.log(), seconds=30)
        pipeline.store.put(row)
        pipeline.enqueue(row["EmailId"])
        pipeline.send(worker.settings.callbacks_queue, "not a report")
        pipeline.find_dead_letter(lambda letter: letter.body == "not a report")
        assert pipeline.status(row) == "Pending", "the callback that was sent later is done, and the email is not"

        def are_parked() -> bool:
            queues = json.loads(liveness.read_text())["queues"]
            return all(queues[queue]["parked"] for queue in paused_queues(worker.settings))

        # A long poll that was open when the pause began ends first.
        wait_until(are_parked, seconds=60, what="the probe finds the paused worker healthy")
        stage.end()
        wait_until(lambda: pipeline.status(row) == "Sent", seconds=30)
        assert "the stage is resumed" in worker.log()


@pytest.mark.slow
def test_a_pause_finishes_the_emails_that_have_begun_and_gives_the_others_back(
    emulator: str, tmp_path: Path, row: dict[str, Any], wait_until: Callable[..., None]
) -> None:
    begun, others = ([f"{kind}-{number}" for number in range(5)] for kind in ("begun", "other"))
    # From the second email on, both threads wait for the turns of emails that have begun, for 15 seconds in all.
    options = "--concurrency", "2", "--prefetch-multiplier", "50"  # there is room for all of them
    with running_worker(emulator, tmp_path, {"EMAIL_SEND_RATE": "0.2"}, *options) as worker:
        pipeline = Pipeline(worker, wait_until)
        sqs = client("sqs", worker.settings)
        url = sqs.get_queue_url(QueueName=worker.settings.queue)["QueueUrl"]
        wait_until(lambda: "ready." in worker.log(), seconds=60)
        for email_id in (*begun, *others):
            pipeline.store.put({**row, "EmailId": email_id})
        pipeline.enqueue(*begun)
        wait_until(lambda: message_counts(sqs, url) == (0, 4, 0), what="the first email is sent, and four wait")
        pipeline.enqueue(*others)
        wait_until(lambda: message_counts(sqs, url) == (0, 9, 0), what="the others are in the prefetch")
        StagePause.from_settings(worker.settings).begin("ada", "provider down")
        wait_until(lambda: message_counts(sqs, url)[0] == 5, seconds=15, what="the others are given back")
        wait_until(lambda: count_sent(worker.outbox) == 5, seconds=60, what="the emails that have begun are sent")
        wait_until(lambda: message_counts(sqs, url) == (5, 0, 0), what="only the others are left")
        assert "gave back 5 messages that had not begun" in worker.log()
    assert [pipeline.status({"EmailId": email_id}) for email_id in (*begun, *others)] == ["Sent"] * 5 + ["Pending"] * 5


def test_all_queues_but_callbacks_are_paused(settings: Settings) -> None:
    assert {*settings.queues} - {*paused_queues(settings)} == {settings.callbacks_queue}
