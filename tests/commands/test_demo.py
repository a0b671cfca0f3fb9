"""What the demo is told; test_demo_with_an_inbox.py runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result


@pytest.mark.parametrize("server", ["localhost", ":1025", "a b:25", "localhost:", "localhost:smtp", "localhost:65536"])
def test_a_mail_catcher_is_a_host_and_a_port(run: Callable[..., Result], server: str) -> None:
    result = run("demo", "--smtp", server)
    assert result.exit_code == 2
    assert f"'{server}' is no HOST:PORT, such as localhost:1025" in result.output
