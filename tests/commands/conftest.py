from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from commands import main

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run(environment: None) -> Callable[..., Result]:
    """Run `email-service` with these arguments."""
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)
