"""`email-service cancel`: nobody sends a cancelled email."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emails.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from emails.store import EmailStore
    from settings import Settings

    Run = Callable[..., Result]


def test_a_cancelled_email_is_failed_and_sent_by_nobody(
    run: Run, store: EmailStore, settings: Settings, row: dict[str, Any]
) -> None:
    store.put(row)
    email_id = row["EmailId"]
    result = run("cancel", email_id)
    assert (result.exit_code, result.output) == (0, f"{email_id} is Failed: cancelled.\n")
    found = store.get(email_id) or {}
    assert (found["EmailStatus"], found["FailureReason"]) == ("Failed", "cancelled")
    assert str(Sender.from_settings(settings).send(email_id)) == "already Failed"


def test_an_email_without_a_status_is_cancelled_too(run: Run, store: EmailStore, row: dict[str, Any]) -> None:
    store.put({**row, "EmailStatus": None})
    assert run("cancel", row["EmailId"]).exit_code == 0
    assert (store.get(row["EmailId"]) or {})["EmailStatus"] == "Failed"


def test_any_other_status_is_named_and_left(run: Run, store: EmailStore, row: dict[str, Any]) -> None:
    for status in ("Sending", "Sent", "Failed", "Unknown", "Delivered", "Bounced", "Complained", "Waiting"):
        email_id = f"is-{status}"
        store.put({**row, "EmailId": email_id, "EmailStatus": status})
        before = store.get(email_id)
        result = run("cancel", email_id)
        assert result.exit_code == 1
        assert f"{email_id} is {status}, not Pending." in result.output
        assert store.get(email_id) == before


def test_there_is_nothing_to_cancel_without_a_row(run: Run, store: EmailStore) -> None:
    result = run("cancel", "nobody")
    assert result.exit_code == 1
    assert "nobody has no row." in result.output
    assert store.get("nobody") is None


def test_a_cancelled_email_may_be_resent(run: Run, store: EmailStore, settings: Settings, row: dict[str, Any]) -> None:
    store.put(row)
    run("cancel", row["EmailId"])
    assert run("resolve", "--resend", row["EmailId"]).exit_code == 0
    assert str(Sender.from_settings(settings).send(row["EmailId"])) == "Sent"
