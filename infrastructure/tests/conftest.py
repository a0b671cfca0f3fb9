"""Synthesizes the stacks once, because importing aws_cdk takes seconds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aws_cdk as cdk
import pytest

from infrastructure import lambda_stack
from infrastructure.app import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTEXT = json.loads((Path(__file__).parents[1] / "cdk.json").read_text())["context"]
STAGES = {
    "staging": {"provider": "stub", "webhooks": True},
    "production": {"provider": "ses", "attachment_prefixes": ["s3://mail/files/"]},
}


@pytest.fixture(scope="session", autouse=True)
def _zip_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Replace the zip by one that has only the file name that tells its runtime and architecture."""
    path = tmp_path_factory.mktemp("zip") / "email_lambda.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pydantic_core/_pydantic_core.cpython-313-aarch64-linux-gnu.so", b"")
        archive.writestr("anymail/__init__.py", b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lambda_stack, "ZIP", path)
        yield


@pytest.fixture(scope="session")
def make_app(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., cdk.App]:
    """Return a function that builds the app with some stages, but does not synthesize it."""

    def make(stages: Any) -> cdk.App:
        folder = tmp_path_factory.mktemp("cdk")
        return build(cdk.App(context={**CONTEXT, "stages": stages}, outdir=str(folder)))

    return make


@pytest.fixture(scope="session")
def folder(make_app: Callable[..., cdk.App]) -> Path:
    """The folder with the templates."""
    return Path(make_app(STAGES).synth().directory)


@pytest.fixture(scope="session")
def template(folder: Path) -> Callable[[str], dict[str, Any]]:
    def read(stack: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / f"{stack}.template.json").read_text())
        return found

    return read


@pytest.fixture(scope="session")
def resources(template: Callable[[str], dict[str, Any]]) -> Callable[[str, str], list[dict[str, Any]]]:
    """Return a function that finds all resources of a type in a stack."""

    def find(stack: str, kind: str) -> list[dict[str, Any]]:
        return [each for each in template(stack)["Resources"].values() if each["Type"] == kind]

    return find
