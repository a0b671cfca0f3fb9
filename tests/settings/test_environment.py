"""The environment that gives a child process the same settings, and what takes precedence over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pytest
from pydantic import Field, HttpUrl, model_validator

from emails.providers.smtp_settings import SmtpSettings
from emails.providers.stub import StubSettings
from settings import EnvironmentSettings, Settings, SettingsError, get_settings, override

CHOSEN: list[tuple[type[EnvironmentSettings], dict[str, Any]]] = [
    (Settings, {}),
    (Settings, {"stage": "local", "concurrency": 3, "send_rate": 0.5, "send_via": ("smtp", "stub")}),
    (Settings, {"endpoint_url": HttpUrl("http://localhost:4567"), "queue_url": None, "send_rate": None}),
    (Settings, {"attachment_prefixes": ("s3://bucket/a/", "s3://bucket/b/"), "liveness_file": Path("/tmp/alive")}),
    (SmtpSettings, {"smtp_host": "mx.example.com", "smtp_username": "shop", "smtp_password": "open sesame, it's me"}),
    (StubSettings, {"stub_outbox": Path("out"), "stub_failures": {"ada@example.com": "temporary:2"}}),
]


@pytest.mark.parametrize(("model", "chosen"), CHOSEN)
def test_a_child_process_reads_the_same_settings(
    monkeypatch: pytest.MonkeyPatch, model: type[EnvironmentSettings], chosen: dict[str, Any]
) -> None:
    settings = model(**chosen)
    environment = settings.environment()
    assert set(environment) == {f"EMAIL_{field.upper()}" for field in chosen}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert model() == settings


def test_a_child_process_reads_what_was_changed_in_a_copy() -> None:
    settings = Settings(stage="a").model_copy(update={"concurrency": 2})
    assert settings.environment() == {"EMAIL_STAGE": "a", "EMAIL_CONCURRENCY": "2"}


@pytest.mark.parametrize("name", ["EMAIL_REGION", "AWS_REGION"])
def test_what_a_process_is_given_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("EMAIL_STAGE", "kept")
    override(region="eu-west-1")
    override(send_rate=14)
    assert (get_settings().region, get_settings().stage, get_settings().send_rate) == ("eu-west-1", "kept", 14)


def test_a_wrong_value_that_a_process_is_given_is_told_as_one_of_the_environment() -> None:
    override(region="mars")
    with pytest.raises(SettingsError, match=r"^EMAIL_REGION or AWS_REGION: is 'mars'; should be an AWS region"):
        get_settings()


class Acme(EnvironmentSettings):
    """The settings of a provider from another package, without descriptions."""

    acme_key: str = Field(default="", max_length=3)
    acme_user: str = ""

    @model_validator(mode="after")
    def _are_whole(self) -> Self:
        if self.acme_key and not self.acme_user:
            raise ValueError("EMAIL_ACME_USER: is missing")
        return self


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("long", "EMAIL_ACME_KEY: is 'long'; String should have at most 3 characters"),
        ("key", "EMAIL_ACME_USER: is missing"),
    ],
)
def test_another_package_s_settings_say_what_is_wrong_too(monkeypatch: pytest.MonkeyPatch, key: str, line: str) -> None:
    monkeypatch.setenv("EMAIL_ACME_KEY", key)
    with pytest.raises(SettingsError) as raised:
        Acme.read()
    assert str(raised.value) == line
