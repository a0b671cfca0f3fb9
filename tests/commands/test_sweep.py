"""`email-service sweep`: what it reports about its work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from celery_sqs.sqs.queue import Queue
    from emails.store import EmailStore
    from settings import Settings

    Run = Callable[..., Result]

OLD = "2026-01-31T12:00:00Z"


@pytest.fixture(autouse=True)
def _three_rows(store: EmailStore, row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put({**row, "EmailId": "left-behind", "UpdatedAt": OLD})
    store.put({**row, "EmailId": "new"})
    store.put({**row, "EmailId": "dead", "EmailStatus": "Sending", "ClaimExpiresAt": 1})
    monkeypatch.chdir(tmp_path)  # its position file is here by default


def test_sweep_says_what_it_did(run: Run, raw_queue: Queue, store: EmailStore, tmp_path: Path) -> None:
    result = run("sweep")
    assert result.exit_code == 0
    done = "enqueued 1, marked 1 as Unknown and 0 as Failed, found 1 for the first time; "
    assert result.stdout.startswith(done)
    assert result.stdout.endswith("read units\n")
    assert [json.loads(message["Body"]) for message in raw_queue.receive(10, 0, 30)] == [{"email_id": "left-behind"}]
    assert (store.get("dead") or {})["EmailStatus"] == "Unknown"
    assert run("sweep").stdout.startswith(
        "enqueued 0, marked 0 as Unknown and 0 as Failed, found 0 for the first time; "
    )
    assert list(tmp_path.iterdir()) == []


def test_sweep_says_what_a_dry_run_would_have_done(run: Run, raw_queue: Queue, store: EmailStore) -> None:
    result = run("sweep", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "would have enqueued 1, marked 1 as Unknown and 0 as Failed, found 1 for the first time; "
    )
    assert raw_queue.receive(10, 0, 30) == []
    assert (store.get("dead") or {})["EmailStatus"] == "Sending"
    assert "UpdatedAt" not in (store.get("new") or {})


def test_sweep_waits_as_long_as_the_setting_says(run: Run, monkeypatch: pytest.MonkeyPatch, raw_queue: Queue) -> None:
    monkeypatch.setenv("EMAIL_SWEEP_AFTER", "0")
    assert "found 1 for the first time" in run("sweep").stdout
    assert run("sweep").stdout.startswith("enqueued 2, ")


def position_at_the_end(table: str) -> str:
    return json.dumps({"table": table, "keys": dict.fromkeys(("0", "1", "2", "3"))})


def test_sweep_goes_on_from_the_position_that_an_interrupted_one_left(
    run: Run, settings: Settings, tmp_path: Path
) -> None:
    position = tmp_path / "elsewhere"
    position.write_text(position_at_the_end(settings.table))
    assert run("sweep", "--position", str(position)).stdout.startswith("enqueued 0, marked 0 ")
    assert not position.exists()
    assert run("sweep", "--position", str(position)).stdout.startswith("enqueued 1, marked 1 ")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (position_at_the_end("another"), "is the position of a sweep of table another, not of "),
        ('{"0": null}', "is not a sweep's position file"),
        ("", "is not a sweep's position file"),
        ("[]", "is not a sweep's position file"),
        ("[" * 100_000, "is not a sweep's position file"),
        ('{"table": "emails", "keys": 5}', "is not a sweep's position file"),
        ('{"table": "emails", "keys": {"0": {"EmailId": NaN}}}', "is not a sweep's position file"),
        ('{"table": "emails", "keys": {"0": 1e50}}', "is not a sweep's position file"),
    ],
    ids=["another table", "no table", "empty", "no object", "too deep", "no keys", "no id", "no key"],
)
def test_sweep_refuses_a_position_that_is_not_of_its_table(
    run: Run, raw_queue: Queue, tmp_path: Path, content: str, why: str
) -> None:
    position = tmp_path / "elsewhere"
    position.write_text(content)
    result = run("sweep", "--position", str(position))
    assert result.exit_code == 1
    assert why in result.stderr
    assert "--position" in result.stderr
    assert (position.read_text(), raw_queue.receive(10, 0, 30)) == (content, [])


def test_sweep_names_what_sqs_does_not_take_and_fails(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.sweep.enqueue_ids", lambda _, ids: dict.fromkeys(ids, "InternalError"))
    result = run("sweep")
    assert result.exit_code == 1
    assert result.stdout.startswith("enqueued 0, marked 1 ")
    assert "1 failed" in result.stderr
    assert "left-behind (InternalError)" in result.stderr


@pytest.mark.parametrize("read_units", ["0", "-1", "many"])
def test_sweep_refuses_a_pace_at_which_it_would_never_come_through(run: Run, read_units: str) -> None:
    result = run("sweep", "--read-units", read_units)
    assert result.exit_code == 2
    assert "--read-units" in result.output


def test_sweep_as_json_has_each_count(run: Run) -> None:
    report = json.loads(run("sweep", "--dry-run", "--json").stdout)
    assert report.pop("ReadUnits") >= 0
    counts = {"Enqueued": 1, "MarkedUnknown": 1, "MarkedFailed": 0, "FoundFirstTime": 1}
    assert report == {"DryRun": True, **counts, "Failed": {}}


def test_an_interrupted_sweep_says_what_it_has_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("emails.sweep._replace", interrupt)
    result = run("sweep")
    assert result.exit_code == 130
    assert result.stderr.startswith("stopped after it enqueued 1, marked 1 as Unknown and 0 as Failed")
    assert result.stderr.endswith("Interrupted.\n")


def test_a_sweep_shows_progress_before_it_has_read_anything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    original = Console.status
    monkeypatch.setattr(Console, "status", lambda self, text: shown.append(text) or original(self, text))
    run("sweep")
    assert shown[0].startswith("sweeping: enqueued 0, ")
