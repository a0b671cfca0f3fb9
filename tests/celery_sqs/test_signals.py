"""Signals wait until locks are released."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from celery_sqs.signals import deferred, uninterrupted

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def story() -> Iterator[list[str]]:
    """The list of what happens, in order. SIGUSR1 adds "signal"."""
    happened: list[str] = []
    before = signal.signal(signal.SIGUSR1, deferred(lambda *_: happened.append("signal")))
    yield happened
    signal.signal(signal.SIGUSR1, before)


def test_a_signal_is_handled_when_the_outermost_is_done(story: list[str]) -> None:
    @uninterrupted
    def inner() -> None:
        signal.raise_signal(signal.SIGUSR1)
        story.append("inner")

    @uninterrupted
    def outer() -> None:
        inner()
        story.append("outer")

    outer()
    assert story == ["inner", "outer", "signal"]


def test_elsewhere_it_is_handled_at_once(story: list[str]) -> None:
    signal.raise_signal(signal.SIGUSR1)
    story.append("after")
    assert story == ["signal", "after"]


def test_it_is_handled_after_an_error_too(story: list[str]) -> None:
    @uninterrupted
    def fails() -> None:
        signal.raise_signal(signal.SIGUSR1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fails()
    assert story == ["signal"]
