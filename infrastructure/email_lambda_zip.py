"""Builds the zip of the Lambda functions. The same commit, lock and Python give the same bytes.

boto3 is left out: Lambda's runtime contains it, and it is three times the size of everything else. Celery, Flower and
what only the commands need are left out too, because the functions do not import them.
"""

from __future__ import annotations

import argparse
import platform
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from infrastructure.lambda_runtime import unpacked
from infrastructure.uv import ROOT, uv

PLATFORMS = {"x86_64": "x86_64-manylinux2014", "arm64": "aarch64-manylinux2014"}
PACKAGES = ("celery_sqs", "email_lambda", "emails", "settings")
NOT_NEEDED = ("boto3", "celery", "click", "flower", "kombu", "rich")
# Files that an installer writes, and that differ from machine to machine.
INSTALLERS = ("INSTALLER", "RECORD", "REQUESTED", "WHEEL", "direct_url.json", "uv_cache.json")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold


def build(target: Path, arch: str, *extras: str) -> None:
    """Write the zip for this Python's minor version, with these extras of the project.

    Raises:
        CalledProcessError: uv failed.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        requirements = folder / "requirements.txt"
        pruned = [option for package in NOT_NEEDED for option in ("--prune", package)]
        wanted = [option for extra in ("lambda", *extras) for option in ("--extra", extra)]
        uv("export", "--frozen", "--no-dev", "--no-emit-project", *wanted, *pruned, "-o", requirements)
        uv(
            *("pip", "install", "--target", folder / "site", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", "--python-platform", PLATFORMS[arch], "--python-version", version),
            *("--requirements", requirements),
        )
        uv("build", "--wheel", "--out-dir", folder / "wheel")
        (wheel,) = (folder / "wheel").glob("*.whl")
        with zipfile.ZipFile(wheel) as ours:
            names = [name for name in ours.namelist() if _is_ours(name)]
            ours.extractall(folder / "site", names)
        _write(target, folder / "site")


def _is_ours(name: str) -> bool:
    top = name.partition("/")[0]
    return top in PACKAGES or top.endswith(".dist-info")


def _write(target: Path, site: Path) -> None:
    files = sorted(path for path in site.rglob("*") if path.is_file() and _is_needed(path.relative_to(site)))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(site).as_posix(), EARLIEST)
            info.external_attr = 0o644 << 16
            archive.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def _is_needed(path: Path) -> bool:
    return not (
        path.parts[0] in ("bin", ".lock")
        or path.suffix in (".pyc", ".pyi")
        or (path.parent.suffix == ".dist-info" and path.name in INSTALLERS)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Build email_lambda.zip.")
    parser.add_argument("--arch", choices=PLATFORMS, default="x86_64")
    parser.add_argument("--extra", choices=["anymail"], action="append", default=[])
    options = parser.parse_args()
    arch, target = options.arch, ROOT / "email_lambda.zip"
    build(target, arch, *options.extra)
    print(f"{target.name} for {arch}: {target.stat().st_size / 1e6:.2f} MB")
    if PLATFORMS[arch].startswith(platform.machine()) and sys.platform == "linux":
        with unpacked(target) as runtime:
            print(f"Imported cold in {runtime.import_seconds():.2f} s")


if __name__ == "__main__":
    main()
