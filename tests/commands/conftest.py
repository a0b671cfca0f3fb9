from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from commands import main
from settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from settings import Settings


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that names the test's own stage."""
    monkeypatch.setattr(os, "environ", os.environ.copy())  # email_broker sets some for its worker
    monkeypatch.setenv("EMAIL_ENDPOINT_URL", settings.endpoint or "")
    monkeypatch.setenv("EMAIL_STAGE", settings.stage)
    get_settings.cache_clear()


@pytest.fixture
def run(environment: None) -> Callable[..., Result]:
    """`email-service` with these arguments."""
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)
