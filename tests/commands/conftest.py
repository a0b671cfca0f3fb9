from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from commands import main

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run(environment: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run `email-service` with these arguments, as in an active environment."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)
