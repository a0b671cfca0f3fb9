"""A paused stage: its workers take no emails and use up no receives, but record callbacks, until it is resumed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError

from celery_sqs.poller import paused_queues as held
from emails.pause import Pause, StagePause, paused_queues
from emails.store import StoreUnavailable
from tasks.pause import Follower
from tests.support.pipeline import Pipeline, running_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from settings import Settings

PAUSE = Pause("2026-11-27T12:00:00+00:00", "ada", "provider down")


class Stage(StagePause):
    """A stage whose pause is what the test says, or cannot be read."""

    def __init__(self, *answers: Pause | Exception | None) -> None:
        self._answers = list(answers)

    def read(self) -> Pause | None:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_pause_that_cannot_be_read_keeps_the_last_known_state() -> None:
    follower = Follower(Stage(StoreUnavailable("down"), PAUSE, StoreUnavailable("down"), None), ("q",))
    seen = []
    for _ in range(4):
        follower.look()
        seen.append("q" in held)
    assert seen == [False, True, True, False]


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


def test_all_queues_but_callbacks_are_paused(settings: Settings) -> None:
    assert {*settings.queues} - {*paused_queues(settings)} == {settings.callbacks_queue}
