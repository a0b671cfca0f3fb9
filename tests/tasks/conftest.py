"""A real worker that the tests here share: `celery -A tasks worker` in its own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.celery_programs import kill
from tests.support.pipeline import Pipeline, Worker, running_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def worker(emulator: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with running_worker(emulator, tmp_path_factory.mktemp("worker"), {}) as worker:
        yield worker
        kill(worker.process)  # idle long polls would hold up its stop, which other tests watch


@pytest.fixture
def pipeline(worker: Worker, wait_until: Callable[..., None]) -> Pipeline:
    return Pipeline(worker, wait_until)
