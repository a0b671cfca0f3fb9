"""A worker finds and uses a provider from a package of its own, such as examples/sendmail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pipeline import Pipeline, running_worker

if TYPE_CHECKING:
    from collections.abc import Callable


ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "sendmail"

# The number before the @ of the last recipient says how the email ends.
SENDMAIL = """#!/bin/sh
for last; do :; done
cat > "$SENDMAIL_FOLDER/$last"
echo "$@" > "$SENDMAIL_FOLDER/$last.arguments"
case $last in *-*) ;; *) exit "${last%@*}" ;; esac
kill -9 $$
"""


def install(folder: Path) -> None:
    """Install the package as pip would, but without building it."""
    metadata = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    ((group, points),) = metadata["entry-points"].items()
    ((name, target),) = points.items()
    shutil.copy(EXAMPLE / f"{target.partition(':')[0]}.py", folder)
    dist_info = folder / f"{metadata['name'].replace('-', '_')}-{metadata['version']}.dist-info"
    dist_info.mkdir()
    dist_info.joinpath("METADATA").write_text(f"Name: {metadata['name']}\nVersion: {metadata['version']}\n")
    dist_info.joinpath("entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")


@pytest.fixture
def sent_by(emulator: str, tmp_path: Path, wait_until: Callable[..., None]) -> Any:
    program = tmp_path / "our-sendmail"
    program.write_text(SENDMAIL)
    program.chmod(0o755)
    install(tmp_path)
    environment = {
        "EMAIL_PROVIDER": "sendmail",
        "EMAIL_SENDMAIL_PROGRAM": str(program),
        "EMAIL_MAX_ATTEMPTS": "1",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "SENDMAIL_FOLDER": str(tmp_path),
    }
    with running_worker(emulator, tmp_path, environment) as worker:
        yield Pipeline(worker, wait_until)


@pytest.mark.slow
def test_a_worker_sends_by_the_provider_of_another_package(
    sent_by: Pipeline, row: dict[str, Any], tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    ends = {
        "0@example.com": ("Sent", ""),
        "75@example.com": ("Failed", "sendmail asks for another try (attempt 1, the last)"),
        "67@example.com": ("Failed", "sendmail refuses the email with exit code 67"),
        "kill-9@example.com": ("Unknown", "sendmail was killed"),
    }
    for recipient in ends:
        sent_by.store.put(row | {"EmailId": recipient, "RecipientsTo": ["ada@example.com", recipient]})
    sent_by.enqueue(*ends)

    def ended() -> dict[str, tuple[str, str]]:
        rows = {recipient: sent_by.store.get(recipient) or {} for recipient in ends}
        return {recipient: (row["EmailStatus"], row.get("FailureReason", "")) for recipient, row in rows.items()}

    wait_until(lambda: ended() == ends, what=f"all are {ends}")
    assert (sent_by.store.get("0@example.com") or {})["Provider"] == "sendmail"
    message = (tmp_path / "0@example.com").read_bytes()
    assert b"\nSubject: Hello\n" in message
    arguments = (tmp_path / "0@example.com.arguments").read_text()
    assert arguments == "-i -f shop@example.com -- ada@example.com 0@example.com\n"


def test_a_wrong_setting_of_its_own_stops_a_worker_at_its_start_with_one_line(tmp_path: Path) -> None:
    install(tmp_path)
    environment = {
        "EMAIL_PROVIDER": "sendmail",
        "EMAIL_SENDMAIL_PROGRAM": "sendmail -v",
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
    }
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker"]
    worker = subprocess.run(
        command, env=os.environ | environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert worker.returncode == 1
    assert worker.stderr == "EMAIL_SENDMAIL_PROGRAM: is 'sendmail -v'; should be the program, without arguments\n"
