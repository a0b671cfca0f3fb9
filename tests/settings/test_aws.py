"""The boto3 clients: which credentials they use, how many connections they have, and how long they wait."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import HttpUrl

from settings import Settings
from settings.aws import ATTEMPTS, CONNECT_TIMEOUT, READ_TIMEOUT, client
from settings.model import LOCAL_REGION, S3_SECONDS

SERVICES = ("sqs", "dynamodb", "s3")


@pytest.fixture(autouse=True)
def _no_credentials_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


def credentials(of: Any) -> tuple[str, str, str | None] | None:
    found = of._request_signer._credentials
    return found and (found.access_key, found.secret_key, found.token)


@pytest.mark.parametrize("service", SERVICES)
def test_the_local_endpoint_gets_dummy_credentials(service: Literal["sqs", "dynamodb", "s3"]) -> None:
    local = client(service, Settings())
    assert credentials(local) == ("test", "test", None)
    assert (local.meta.region_name, local.meta.endpoint_url) == (LOCAL_REGION, "http://localhost:4566")


def test_the_local_endpoint_never_gets_an_account_s_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "real")
    assert credentials(client("sqs", Settings())) == ("test", "test", None)


@pytest.mark.parametrize("service", SERVICES)
def test_a_real_region_gets_no_credentials_of_ours(service: Literal["sqs", "dynamodb", "s3"]) -> None:
    real = client(service, Settings(region="eu-west-1"))
    assert credentials(real) is None
    assert real.meta.region_name == "eu-west-1"
    assert real.meta.endpoint_url == f"https://{service}.eu-west-1.amazonaws.com"


def test_a_real_region_gets_what_boto3_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, f"real {name}")
    settings = Settings(region="eu-west-1", endpoint_url=HttpUrl("http://localhost:1"))
    found = client("dynamodb", settings)
    assert credentials(found) == ("real AWS_ACCESS_KEY_ID", "real AWS_SECRET_ACCESS_KEY", "real AWS_SESSION_TOKEN")
    assert found.meta.endpoint_url == "http://localhost:1"


@pytest.mark.parametrize("service", SERVICES)
def test_every_thread_of_a_worker_finds_a_connection_and_the_worker_s_own_too(
    service: Literal["sqs", "dynamodb", "s3"],
) -> None:
    for concurrency in (1, 16, 100):
        made: Any = client(service, Settings(concurrency=concurrency))
        assert made.meta.config.max_pool_connections > concurrency


@pytest.mark.parametrize("service", SERVICES)
def test_no_call_waits_for_botocore_s_default_of_a_minute(service: Literal["sqs", "dynamodb", "s3"]) -> None:
    config: Any = client(service, Settings()).meta.config
    assert (config.connect_timeout, config.read_timeout) == (CONNECT_TIMEOUT, READ_TIMEOUT)
    assert config.connect_timeout < config.read_timeout < 60
    assert (config.retries["mode"], config.retries["total_max_attempts"]) == ("standard", ATTEMPTS)


def test_s3_is_waited_for_no_longer_than_a_claim_reckons_with() -> None:
    backoff = sum(2**attempt for attempt in range(ATTEMPTS - 1))  # the longest backoff in botocore's standard mode
    assert ATTEMPTS * (CONNECT_TIMEOUT + READ_TIMEOUT) + backoff <= S3_SECONDS
