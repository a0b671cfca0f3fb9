"""The list of expected failures, and what a run makes of it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.peer_suites.suites import Results

LIST = Path(__file__).with_name("expected_failures.toml")


class Kind(StrEnum):
    DIFFERENCE = "difference"  # documented in docs/celery_sqs.md
    MOCK = "mock"  # the test looks at kombu's private parts, not at what a user sees
    EMULATOR = "emulator"  # the emulator differs from SQS
    REDIS = "redis"  # it fails on Redis too
    DEFECT = "defect"  # ours, to be fixed


@dataclass(frozen=True)
class Group:
    """Tests that fail for one reason."""

    tests: tuple[str, ...]  # `<suite>::<test>`, with the wildcard `*`
    kind: Kind
    reason: str
    redis: str  # what they do where Redis is the broker: pass, fail, or none if it has no such test
    documented: str = ""  # a sentence of docs/celery_sqs.md, for a difference
    flaky: bool = False  # they fail at times

    def has(self, suite: str, test: str) -> bool:
        return any(_matches(f"{suite}::{test}", pattern) for pattern in self.tests)

    def without_test(self, suite: str, tests: Iterable[str]) -> list[str]:
        """The patterns for this suite that none of its tests has."""
        names = [f"{suite}::{test}" for test in tests]
        return [
            pattern
            for pattern in self.tests
            if _matches(suite, pattern.partition("::")[0]) and not any(_matches(name, pattern) for name in names)
        ]


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern.replace("[", "[[]"))  # `[` is part of a test's name


def load(path: Path = LIST) -> list[Group]:
    return [
        Group(**group | {"kind": Kind(group["kind"]), "tests": tuple(group["tests"])})
        for group in tomllib.loads(path.read_text())["group"]
    ]


@dataclass
class Comparison:
    expected: dict[str, str] = field(default_factory=dict)
    unexpected: dict[str, str] = field(default_factory=dict)
    passed_unexpectedly: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)  # patterns that no test has

    @property
    def as_expected(self) -> bool:
        return not (self.unexpected or self.passed_unexpectedly or self.unknown)


def compare(suite: str, results: Results, groups: list[Group]) -> Comparison:
    """Set what a suite did against the list."""
    comparison = Comparison()
    for test, what in results.failed.items():
        listed = any(group.has(suite, test) for group in groups)
        (comparison.expected if listed else comparison.unexpected)[test] = what
    steady = [group for group in groups if not group.flaky]
    comparison.passed_unexpectedly = sorted(
        test for test in results.passed if any(group.has(suite, test) for group in steady)
    )
    tests = results.passed | results.skipped | results.failed.keys()
    comparison.unknown = [pattern for group in steady for pattern in group.without_test(suite, tests)]
    return comparison
