"""Lets a worker follow the stage's pause, which it reads every five seconds in a thread of its own."""

from __future__ import annotations

import threading
from typing import Any

from celery.signals import celeryd_after_setup, worker_ready
from celery.utils.log import get_task_logger

from celery_sqs.log import OnceAMinute
from celery_sqs.receiving import pause_queues
from emails.pause import Pause, StagePause, paused_queues
from emails.store import StoreRefused, StoreUnavailable
from settings import get_settings

logger = get_task_logger(__name__)
complain = OnceAMinute(logger)

READ_EVERY_SECONDS = 5.0


class Follower:
    """Applies the stage's pause to this process, and logs each change."""

    def __init__(self, stage: StagePause, queues: tuple[str, ...]) -> None:
        self._stage = stage
        self._queues = queues
        self._pause: Pause | None = None

    def look(self) -> None:
        """Read the pause and apply it. If it cannot be read, the last known state stays."""
        before = self._pause
        try:
            self._pause = self._stage.read()
        except (StoreUnavailable, StoreRefused) as error:
            complain("cannot read whether the stage is paused (it stays as it is): %s", error)
        given_back = pause_queues(self._queues if self._pause else ())
        if self._pause and self._pause != before:
            logger.warning("the stage is %s; nothing is received but callbacks", self._pause)
        elif before and not self._pause:
            logger.warning("the stage is resumed")
        if given_back:
            logger.info("gave back %d messages that had not begun, because the stage is paused", given_back)

    def run(self) -> None:
        while True:
            threading.Event().wait(READ_EVERY_SECONDS)
            try:
                self.look()
            except Exception:  # if this thread ended, the worker would follow no pause and no resume any more
                logger.exception("cannot follow the stage's pause")


_follower: list[Follower] = []  # the worker's own, once it has been set up


@celeryd_after_setup.connect
def follow(**_: Any) -> None:
    """Read the pause before anything is received."""
    settings = get_settings()
    _follower[:] = [Follower(StagePause.from_settings(settings), paused_queues(settings))]
    _follower[0].look()


@worker_ready.connect
def keep_following(**_: Any) -> None:
    for follower in _follower:
        threading.Thread(target=follower.run, name="pause", daemon=True).start()
