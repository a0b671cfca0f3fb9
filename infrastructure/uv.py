"""Runs uv as the Makefile installs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_UV = os.environ.get("UV", str(ROOT / ".tools" / "bin" / "uv"))  # `uv run` sets UV


def uv(*arguments: str | Path) -> None:
    """Run uv in the repository for the current Python. Raises CalledProcessError if it fails."""
    environment = os.environ | {"UV_PYTHON": sys.executable}
    subprocess.run([_UV, *map(str, arguments), "--quiet"], cwd=ROOT, check=True, env=environment)  # noqa: S603 (uv)
