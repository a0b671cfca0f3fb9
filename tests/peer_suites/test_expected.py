"""What a run makes of the list of expected failures, and what the list promises."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest

from tests.peer_suites.expected import Group, Kind, compare, load
from tests.peer_suites.sources import ROOT
from tests.peer_suites.suites import SUITES, Results, read

if TYPE_CHECKING:
    from pathlib import Path

GROUP = Group(("inspect::test_a", "inspect::test_b[*"), Kind.REDIS, "reason", redis="fail")


def test_a_failure_in_the_list_is_expected_in_its_suite_only() -> None:
    results = Results(failed={"test_a": "E", "test_b[1]": "E"})

    assert compare("inspect", results, [GROUP]).as_expected
    assert compare("tasks", results, [GROUP]).unexpected == {"test_a": "E", "test_b[1]": "E"}


def test_a_failure_that_no_group_has_is_unexpected() -> None:
    results = Results(passed={"test_z"}, failed={"test_a": "E", "test_b[1]": "E", "test_c": "E"})

    comparison = compare("inspect", results, [GROUP])

    assert comparison.unexpected == {"test_c": "E"}
    assert not comparison.as_expected


def test_a_listed_test_that_passes_is_unexpected() -> None:
    results = Results(passed={"test_a"}, failed={"test_b[1]": "E"})

    comparison = compare("inspect", results, [GROUP])

    assert comparison.passed_unexpectedly == ["test_a"]
    assert not comparison.as_expected


def test_a_listed_test_that_is_not_there_any_more_is_named() -> None:
    comparison = compare("inspect", Results(failed={"test_a": "E"}), [GROUP])

    assert comparison.unknown == ["inspect::test_b[*"]
    assert not comparison.as_expected


def test_a_flaky_test_may_pass_or_fail() -> None:
    flaky = Group(("inspect::test_a",), Kind.REDIS, "reason", redis="fail", flaky=True)

    assert compare("inspect", Results(passed={"test_a"}), [flaky]).as_expected
    assert compare("inspect", Results(failed={"test_a": "E"}), [flaky]).as_expected


def written(folder: Path, *lines: dict[str, object]) -> Path:
    path = folder / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def report(test: str, outcome: str) -> dict[str, object]:
    return {"test": test, "outcome": outcome, "what": "E" if outcome == "failed" else ""}


def test_a_test_fails_if_its_setup_its_call_or_its_teardown_fails(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        {"collected": ["test_a", "test_b", "test_c"]},
        *(report("test_a", outcome) for outcome in ("passed", "passed", "failed")),
        *(report("test_b", outcome) for outcome in ("passed", "passed", "passed")),
        *(report("test_c", outcome) for outcome in ("passed", "skipped", "passed")),
        {"finished": True},
    )

    assert read(path, exited=True) == Results(passed={"test_b"}, skipped={"test_c"}, failed={"test_a": "E"})


def test_what_a_killed_process_did_not_run_has_failed(tmp_path: Path) -> None:
    path = written(tmp_path, {"collected": ["test_a", "test_b"]}, report("test_a", "passed"))

    results = read(path, exited=False)

    assert results.passed == {"test_a"}
    assert results.failed.keys() == {"test_b", "(exit)"}


@pytest.mark.parametrize("exited", [True, False])
def test_a_suite_that_collects_nothing_has_failed(tmp_path: Path, exited: bool) -> None:
    assert "(collection)" in read(tmp_path / "nothing.jsonl", exited=exited).failed


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


DOCUMENTED = one_line((ROOT / "docs/celery_sqs.md").read_text())


@pytest.mark.parametrize("group", load(), ids=lambda group: group.reason)
def test_every_group_names_suites_and_what_redis_does(group: Group) -> None:
    for pattern in group.tests:
        suite, separator, test = pattern.partition("::")
        assert separator
        assert test
        assert any(fnmatchcase(known.name, suite) for known in SUITES)
    assert group.redis in {"pass", "fail", "none"}
    assert (group.redis == "fail") == (group.kind is Kind.REDIS)


@pytest.mark.parametrize("group", load(), ids=lambda group: group.reason)
def test_what_redis_passes_is_a_documented_difference_or_a_defect(group: Group) -> None:
    assert group.redis != "pass" or group.kind in {Kind.DIFFERENCE, Kind.DEFECT}
    assert bool(group.documented) == (group.kind is Kind.DIFFERENCE)
    assert one_line(group.documented) in DOCUMENTED
