"""`email-service pause`, `resume` and `status` without an id."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result


def test_a_pause_is_shown_with_who_and_why_until_it_is_resumed(run: Callable[..., Result]) -> None:
    assert "not paused" in run("status").output
    assert json.loads(run("status", "--json").output) == {"Paused": False}
    assert run("pause", "--reason", "provider down").exit_code == 0
    for command in ("status", "queues"):
        output = run(command).output
        assert " is paused since " in output
        assert ": provider down" in output
    shown = json.loads(run("status", "--json").output)
    assert (shown["Paused"], shown["Reason"], bool(shown["By"])) == (True, "provider down", True)
    assert "It is resumed." in run("resume").output
    assert "not paused" in run("status").output
    assert "was not paused" in run("resume").output
    assert "paused" not in run("queues").output


def test_a_pause_needs_a_reason(run: Callable[..., Result]) -> None:
    assert run("pause").exit_code == 2
    assert run("pause", "--reason", " ").exit_code == 2
