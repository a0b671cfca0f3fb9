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

    suites: tuple[str, ...]
    tests: tuple[str, ...]  # with shell wildcards, where `[` and `]` are plain characters
    kind: Kind
    reason: str
    redis: str  # what they do where Redis is the broker: pass, fail, or none if it has no such test
    documented: str = ""  # a sentence of docs/celery_sqs.md, for a difference
    flaky: bool = False  # they fail at times

    def has(self, suite: str, test: str) -> bool:
        return suite in self.suites and any(fnmatchcase(test, pattern.replace("[", "[[]")) for pattern in self.tests)


def load(path: Path = LIST) -> list[Group]:
    return [
        Group(**group | {"kind": Kind(group["kind"]), "suites": tuple(group["suites"]), "tests": tuple(group["tests"])})
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


def compare(suite: str, results: Results, groups: Iterable[Group]) -> Comparison:
    """Set what a suite did against the list."""
    comparison = Comparison()
    groups = [group for group in groups if suite in group.suites]
    for test, what in results.failed.items():
        listed = any(group.has(suite, test) for group in groups)
        (comparison.expected if listed else comparison.unexpected)[test] = what
    steady = [group for group in groups if not group.flaky]
    comparison.passed_unexpectedly = sorted(
        test for test in results.passed if any(group.has(suite, test) for group in steady)
    )
    tests = results.passed | results.skipped | results.failed.keys()
    for group in steady:
        for pattern in group.tests:
            alone = Group(group.suites, (pattern,), group.kind, group.reason, group.redis)
            if not any(alone.has(suite, test) for test in tests):
                comparison.unknown.append(pattern)
    return comparison
