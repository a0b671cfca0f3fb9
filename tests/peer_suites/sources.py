"""kombu's and Celery's own tests, from their source distributions on PyPI in the versions of uv.lock."""

from __future__ import annotations

import subprocess
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".peer-suites"
PIP = ROOT / ".tools/bin/pip"

# Only the tests and pytest's settings. The packages under test are the installed ones, which a second copy beside the
# tests would hide, because both suites put their folder on sys.path.
UNPACKED = ("t/", "pyproject.toml", "setup.cfg")


def locked(distribution: str) -> tuple[str, str]:
    """The version that uv.lock has, and the hash of its source distribution."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    package = next(package for package in lock["package"] if package["name"] == distribution)
    return package["version"], package["sdist"]["hash"]


def unpacked(distribution: str) -> Path:
    """The folder with the distribution's tests, downloaded if it is not there yet."""
    version, checksum = locked(distribution)
    folder = CACHE / f"{distribution}-{version}"
    if not folder.exists():
        CACHE.mkdir(exist_ok=True)
        requirements = CACHE / f"{distribution}.txt"
        requirements.write_text(f"{distribution}=={version} --hash={checksum}\n")
        options = ["--quiet", "--no-deps", f"--no-binary={distribution}", "--require-hashes", f"--dest={CACHE}"]
        subprocess.run([PIP, "download", *options, f"--requirement={requirements}"], check=True)
        _unpack(CACHE / f"{distribution}-{version}.tar.gz", folder)
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    with tarfile.open(archive) as tar:
        wanted = [member for member in tar.getmembers() if member.name.partition("/")[2].startswith(UNPACKED)]
        tar.extractall(unfinished, wanted, filter="data")
    (unfinished / folder.name).rename(folder)
    unfinished.rmdir()
