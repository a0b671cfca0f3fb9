""".env.example against the settings that there are."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from settings import Settings

EXAMPLE = Path(__file__).parents[2] / ".env.example"


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    """The file as of somebody who uncommented all of it."""
    path = tmp_path / ".env"
    path.write_text(re.sub(r"^#(?=EMAIL_)", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return path


def test_every_setting_is_in_it_once_commented_out() -> None:
    names = re.findall(r"^(.*)=", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(names) == sorted(f"#EMAIL_{field.upper()}" for field in Settings.model_fields)


def test_every_setting_has_a_comment_right_above_it() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for above, line in pairwise(lines):
        if line.startswith("#EMAIL_"):
            assert re.match(r"# \w.*\.$", above), line


def test_each_value_in_it_is_the_default(uncommented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings()
    monkeypatch.setitem(Settings.model_config, "env_file", uncommented)
    assert Settings() == defaults
    values = dict(line.split("=", 1) for line in uncommented.read_text().splitlines() if line.startswith("EMAIL_"))
    for field, default in defaults:
        value = values[f"EMAIL_{field.upper()}"]
        assert value or default in (None, "", ()), f"{field}: an empty value sets nothing, and hides a default"


def test_it_sets_nothing_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_STAGE", "seen")
    defaults = Settings()
    monkeypatch.setitem(Settings.model_config, "env_file", EXAMPLE)
    assert Settings() == defaults


def test_a_value_that_is_changed_there_is_loaded(uncommented: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uncommented.write_text(uncommented.read_text().replace("EMAIL_STAGE=local", "EMAIL_STAGE=prod"))
    monkeypatch.setitem(Settings.model_config, "env_file", uncommented)
    assert Settings().stage == "prod"
