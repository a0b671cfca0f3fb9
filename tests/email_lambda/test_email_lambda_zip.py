"""The zip file of the Lambda functions: what it contains, and that it needs nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from email_lambda.batch import TimeoutTooShort
from infrastructure import email_lambda_zip
from infrastructure.lambda_runtime import Runtime, unpacked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emails.store import EmailStore
    from tests.email_lambda.conftest import Mapping

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def zip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("zip") / "email_lambda.zip"
    email_lambda_zip.build(path, "x86_64")
    return path


@pytest.fixture(scope="module")
def runtime(zip_file: Path) -> Iterator[Runtime]:
    with unpacked(zip_file) as runtime:
        yield runtime


@pytest.fixture
def in_lambda(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_LOG_FORMAT", "json")


def test_it_is_the_same_to_the_byte_when_built_again(zip_file: Path, tmp_path: Path) -> None:
    email_lambda_zip.build(tmp_path / "again.zip", "x86_64")
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (zip_file, tmp_path / "again.zip")}
    assert len(digests) == 1


def test_the_function_for_webhooks_needs_nothing_else_either(runtime: Runtime) -> None:
    subprocess.run(runtime.python("import email_lambda.webhooks"), check=True, env={})


@pytest.mark.parametrize(("arch", "machine"), [("x86_64", "x86_64"), ("arm64", "aarch64")])
def test_it_is_small_and_of_its_architecture(arch: str, machine: str, tmp_path: Path) -> None:
    path = tmp_path / "email_lambda.zip"
    email_lambda_zip.build(path, arch)
    assert path.stat().st_size < 5_000_000
    names = zipfile.ZipFile(path).namelist()
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    assert [name for name in names if name.endswith(".so")] == [
        f"pydantic_core/_pydantic_core.cpython-{version}-{machine}-linux-gnu.so"
    ]


def test_it_has_what_a_function_needs_and_nothing_that_it_does_not(zip_file: Path) -> None:
    names = zipfile.ZipFile(zip_file).namelist()
    assert {"emails", "email_lambda", "settings"} <= {name.partition("/")[0] for name in names}
    assert not {"anymail", "boto3", "celery", "commands", "django", "flower", "kombu", "tasks", "tests"} & {
        name.partition("/")[0] for name in names
    }
    assert [name for name in names if name.endswith((".pyc", "/RECORD", "/direct_url.json"))] == []


def test_with_the_extra_anymail_a_function_can_send_by_its_services(tmp_path: Path) -> None:
    path = tmp_path / "email_lambda.zip"
    email_lambda_zip.build(path, "x86_64", "anymail")
    code = "from emails.providers import load_providers; from settings import Settings; load_providers(Settings())"
    variables = {"EMAIL_PROVIDER": "postmark", "EMAIL_POSTMARK_SERVER_TOKEN": "1"}
    with unpacked(path) as runtime:
        subprocess.run(runtime.python(code), env=variables, check=True)


def test_it_needs_nothing_but_what_lambda_brings(runtime: Runtime) -> None:
    """It is imported by an interpreter that sees neither this machine's packages nor the repository."""
    code = "import sys; assert not [path for path in sys.path if 'site-packages' in path]; import email_lambda.main"
    subprocess.run(runtime.python(code), check=True, env={})
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(runtime.python("import celery"), check=True, env={}, stderr=subprocess.DEVNULL)


@pytest.mark.usefixtures("in_lambda")
def test_lambdas_own_client_answers_an_event_without_messages(runtime: Runtime) -> None:
    answer = runtime.invoke("email_lambda.main.send_emails", b'{"Records": []}')
    assert (json.loads(answer.body), answer.failed) == ({"batchItemFailures": []}, False)


@pytest.mark.usefixtures("in_lambda")
def test_by_lambdas_own_client_an_email_is_sent(
    runtime: Runtime, mapping: Mapping, store: EmailStore, row: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    store.put(row)
    mapping.send(json.dumps({"email_id": row["EmailId"]}))
    (event,) = mapping.events()
    answer = runtime.invoke("email_lambda.main.send_emails", json.dumps(event).encode())
    assert json.loads(answer.body) == {"batchItemFailures": []}
    assert (store.get(row["EmailId"]) or {})["EmailStatus"] == "Sent"
    (line,) = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert line == line | {"event": "Sent", "email_id": row["EmailId"], "attempt": 1, "sends": 1, "level": "info"}
    assert line.keys() >= {"message_id", "request_id", "logger", "timestamp"}


@pytest.mark.usefixtures("in_lambda")
def test_what_the_function_raises_is_its_answer(
    runtime: Runtime, mapping: Mapping, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This is long enough for the function to start on a busy machine, and too short for a send that fetches files.
    monkeypatch.setattr("infrastructure.lambda_runtime.SECONDS", 40)
    monkeypatch.setenv("EMAIL_ATTACHMENT_PREFIXES", "s3://mail/")
    mapping.send("{}")
    (event,) = mapping.events()
    answer = runtime.invoke("email_lambda.main.send_emails", json.dumps(event).encode())
    assert answer.failed
    assert json.loads(answer.body)["errorType"] == TimeoutTooShort.__name__


def test_a_wrong_setting_stops_the_function_and_says_which(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", os.environ | {"EMAIL_STAGE": "Not A Stage"})
    assert runtime.invoke("email_lambda.main.send_emails", b"{}").failed
    assert "EMAIL_STAGE: is 'Not A Stage'" in capfd.readouterr().err
