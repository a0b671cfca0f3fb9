"""What is logged of an exception has its types and places, but not its text."""

from __future__ import annotations

import pytest

from emails.logs import frames, place


def fail_with(error: BaseException) -> None:
    raise error


def fail(error: BaseException, cause: BaseException | None = None) -> BaseException:
    with pytest.raises(type(error)) as raised:
        raise error from cause
    return raised.value


def test_a_place_is_type_function_file_and_line() -> None:
    assert place(fail(KeyError("secret"))).startswith("KeyError in fail (emails/test_logs.py:")
    assert place(KeyError("never raised")) == "KeyError"


def test_frames_have_the_causes_first_and_no_text() -> None:
    text = frames(fail(KeyError("secret"), fail(ValueError("secret"))))
    assert [line for line in text.splitlines() if line.endswith("Error")] == ["ValueError", "KeyError"]
    assert text.count("in fail") == 2
    assert "secret" not in text


def test_frames_leave_out_a_context_that_was_suppressed() -> None:
    def suppress() -> None:
        try:
            fail_with(TypeError("x"))
        except TypeError:
            raise KeyError from None

    with pytest.raises(KeyError) as raised:
        suppress()
    assert "TypeError" not in frames(raised.value).splitlines()
