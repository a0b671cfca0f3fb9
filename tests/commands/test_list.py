"""`email-service list`: the emails that need a person, or any others, the newest first."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from commands.list import Since
from emails.status import DISCARD, EmailStatus
from emails.store import EmailStore
from settings import get_settings
from tests.support.stage import environment_of, new_stage, pending_row, without_index

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from emails.store import Wanted
    from settings import Settings

    Run = Callable[..., Result]

LEASE = 60
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def outage(store: EmailStore) -> None:
    """Five emails fail, one a minute for two reasons, one becomes Unknown after them, and one is Pending."""
    with pytest.MonkeyPatch.context() as patch:
        for number in range(6):
            patch.setattr("time.time", lambda moment=NOON + 60 * number: moment)
            store.put(pending_row(f"order-{number}"))
            if number < 5:
                store.end(f"order-{number}", DISCARD, "over quota" if number % 2 else "no such mailbox")
            else:
                store.mark_unknown(store.claim(f"order-{number}", lease=LEASE), "no answer")
    store.put(pending_row("order-6"))


ALL = """\
order-5  Unknown  2026-01-31T12:05:00Z  no answer
order-4  Failed   2026-01-31T12:04:00Z  no such mailbox
order-3  Failed   2026-01-31T12:03:00Z  over quota
order-2  Failed   2026-01-31T12:02:00Z  no such mailbox
order-1  Failed   2026-01-31T12:01:00Z  over quota
order-0  Failed   2026-01-31T12:00:00Z  no such mailbox
5 Failed, 1 Unknown
      3  no such mailbox
      2  over quota
      1  no answer
"""


@pytest.fixture(params=["with the index", "without it"])
def run_both(run: Run, outage: None, request: pytest.FixtureRequest) -> Run:
    """Run the command on a table that has the index, and on one that lacks it."""
    if request.param == "without it":
        without_index(get_settings())
    return run


def test_what_needs_a_person_is_listed_newest_first_with_its_reasons(run_both: Run) -> None:
    """Without the index, the time is that of the last transition, which is the same."""
    result = run_both("list")
    assert result.exit_code == 0
    assert result.stdout == ALL


def test_without_the_index_the_table_is_scanned_and_the_command_says_so(
    run: Run, outage: None, settings: Settings
) -> None:
    assert run("list").stderr == ""
    without_index(settings)
    said = run("list").stderr
    assert f"{settings.table} has no index of the emails that need a person" in said
    assert "email-service provision --backfill" in said
    assert run("provision", "--backfill").exit_code == 0
    assert run("list").stderr == ""
    assert run("list").stdout == ALL


def test_filters_and_the_limit(run_both: Run) -> None:
    def ids(*arguments: str) -> list[str]:
        result = run_both("list", "--ids-only", *arguments)
        assert result.exit_code == 0, result.output
        return [line.removeprefix("order-") for line in result.stdout.splitlines()]

    assert ids("--status", "Failed", "--limit", "9") == ["4", "3", "2", "1", "0"]
    assert ids("--status", "Unknown") == ["5"]
    assert ids("--reason", "QUOTA", "--limit", "9") == ["3", "1"]
    assert ids("--since", "2026-01-31T12:03Z", "--limit", "9") == ["5", "4", "3"]
    assert ids("--since", "2h") == []
    assert ids("--limit", "2") == ["5", "4"]
    assert sorted(ids()) == ["0", "1", "2", "3", "4", "5"]
    cut = run_both("list", "--limit", "2").stdout.splitlines()
    assert [line[:7] for line in cut[:2]] == ["order-5", "order-4"]
    assert cut[2:] == ["5 Failed, 1 Unknown; the newest 2 are listed", *ALL.splitlines()[-3:]]


def test_as_json(run_both: Run) -> None:
    found = json.loads(run_both("list", "--json", "--limit", "1").stdout)
    assert found == {
        "Emails": [
            {
                "EmailId": "order-5",
                "EmailStatus": "Unknown",
                "Since": "2026-01-31T12:05:00Z",
                "FailureReason": "no answer",
            }
        ],
        "Count": 6,
        "Reasons": {"no such mailbox": 3, "over quota": 2, "no answer": 1},
        "OtherReasons": 0,
    }


def test_nothing_needs_a_person(run: Run) -> None:
    result = run("list")
    assert (result.exit_code, result.stdout) == (0, "none\n")
    assert json.loads(run("list", "--json").stdout)["Count"] == 0
    assert run("list", "--ids-only").stdout == ""


def test_other_statuses_come_from_a_scan(run: Run, outage: None, store: EmailStore) -> None:
    for status in EmailStatus:
        store.put(pending_row(f"is-{status}") | {"EmailStatus": status.value, "UpdatedAt": "2026-03-01T00:00:00+00:00"})
    assert run("list", "--status", "Pending").stdout.splitlines() == [
        "is-Pending  Pending  2026-03-01T00:00:00Z",
        "order-6  Pending  no time yet",
        "2 Pending",
    ]
    for status in set(EmailStatus) - {EmailStatus.FAILED, EmailStatus.UNKNOWN, EmailStatus.PENDING}:
        result = run("list", "--status", status.value, "--since", "2026-02-01", "--ids-only")
        assert result.stdout == f"is-{status}\n"
        assert result.stderr == "", "there is nothing to say about the index"
    both = run("list", "--status", "Pending", "--status", "Unknown", "--ids-only", "--limit", "9").stdout.splitlines()
    assert sorted(both) == ["is-Pending", "is-Unknown", "order-5", "order-6"]


def test_the_emails_to_an_address_are_found_in_any_status(run: Run, store: EmailStore) -> None:
    def put(email_id: str, status: str, **attributes: Any) -> None:
        store.put(pending_row(email_id) | {"EmailStatus": status, "RecipientsTo": ["bob@example.com"]} | attributes)

    put("to", "Sent", RecipientsTo=["Ada Lovelace <Ada@Example.com>", "x@example.com"])
    put("cc", "Pending", RecipientsCc={"ada@example.com"})
    put("bcc", "Waiting", RecipientsBcc=["ada@example.com"])
    put("other", "Sent", RecipientsCc=["nada@example.com"], RecipientsBcc=["no address", 7])
    put("odd", "Sent", RecipientsTo="ada@example.com", RecipientsCc=None)
    result = run("list", "--recipient", "ADA@example.com", "--ids-only")
    assert sorted(result.stdout.splitlines()) == ["bcc", "cc", "to"]
    assert run("list", "--recipient", "ada@example.com", "--status", "Sent", "--ids-only").stdout == "to\n"
    listed = run("list", "--recipient", "ada@example.com").stdout
    assert "1 Pending, 1 Sent, 1 Waiting" in listed
    assert "ada@" not in listed.casefold()


def test_a_scan_keeps_to_its_read_units(run: Run, outage: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def scan(store: EmailStore, wanted: Wanted, read_units_per_second: float) -> list[Any]:
        asked.append(read_units_per_second)
        return []

    monkeypatch.setattr(EmailStore, "scan", scan)
    run("list", "--status", "Sent", "--read-units", "7")
    run("list", "--status", "Sent")
    run("list")
    assert asked == [7, 100]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "yesterday"), "should be like 30m, 2h or 7d"),
        (("--since", "99999999999d"), "should be like 30m, 2h or 7d"),
        (("--json", "--ids-only"), "Give --json or --ids-only, not both."),
        (("--recipient", "ada"), "--recipient is not an address"),
        (("--status", "Waiting"), "'Waiting' is not one of"),
        (("--limit", "0"), "0 is not in the range"),
    ],
)
def test_a_wrong_option_is_explained(run: Run, arguments: tuple[str, ...], says: str) -> None:
    result = run("list", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("7d", 604_800)])
def test_a_duration_counts_back_from_now(monkeypatch: pytest.MonkeyPatch, text: str, seconds: int) -> None:
    monkeypatch.setattr("commands.list.time.time", lambda: NOON)
    assert Since().convert(text, None, None) == NOON - seconds


def test_an_id_goes_to_another_command_exactly_as_it_is_and_never_as_several_lines(run: Run, store: EmailStore) -> None:
    for email_id in ("a\u202eb", "one\ntwo", "x" * 200):
        store.put(pending_row(email_id) | {"EmailStatus": "Pending"})
        store.end(email_id, DISCARD, "no")
    result = run("list", "--ids-only")
    assert result.stdout == "a\u202eb\n"
    assert "2 left out" in result.stderr
    assert all(line.isprintable() for line in run("list").output.splitlines())


@pytest.mark.slow
def test_ids_go_to_the_file_even_if_a_person_watches_the_progress(emulator: str, tmp_path: Path) -> None:
    settings = new_stage(emulator)
    store = EmailStore.from_settings(settings)
    for number in range(3):
        store.put(pending_row(f"order-{number}"))
        store.end(f"order-{number}", DISCARD, "no")
    master, terminal = pty.openpty()
    program = [sys.executable, "-c", "from commands import main; main()", "list", "--ids-only"]
    with (tmp_path / "ids").open("wb") as file:
        environment = os.environ | environment_of(settings, TERM="xterm")
        done = subprocess.run(program, stdout=file, stderr=terminal, env=environment, check=False, timeout=120)
    os.close(terminal)
    watched = os.read(master, 100_000).decode()
    os.close(master)
    assert done.returncode == 0
    assert sorted((tmp_path / "ids").read_text().split()) == ["order-0", "order-1", "order-2"]
    assert "looking for emails" in watched
    assert "order-" not in watched
