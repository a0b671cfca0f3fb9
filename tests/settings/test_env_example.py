"""What .env.example and the docs say about settings matches the settings that exist."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from emails.providers.anymail_services import SERVICES
from settings import EnvironmentSettings, Settings
from settings.environment import variable
from tests.conftest import SETTINGS_MODELS
from tests.emails.providers.backends import REQUIRED

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
DOCUMENTS = [
    *(ROOT / name for name in (".env.example", "Dockerfile", "Makefile", "docker-compose.yml")),
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
]
VARIABLES = {variable(field) for model in SETTINGS_MODELS for field in model.model_fields}
# The first is a variable of make, and the second is the setting of the provider in examples/sendmail.
OTHERS = {"EMAIL_ID", "EMAIL_SENDMAIL_PROGRAM"}


# The values of the settings that have no default.
NEEDED: dict[type[EnvironmentSettings], dict[str, str]] = {
    service.settings: {f"{name}_{option}": value for option, value in REQUIRED[name].items()}
    for name, service in SERVICES.items()
}


@pytest.fixture
def uncommented(tmp_path: Path) -> Path:
    """Return the path of the file with every setting uncommented."""
    path = tmp_path / ".env"
    path.write_text(re.sub(r"^#(?=EMAIL_)", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    return path


def test_every_provider_of_ours_has_settings_of_its_own() -> None:
    services = {service.settings.__name__ for service in SERVICES.values()}
    assert len(services) == len(SERVICES)
    assert {model.__name__ for model in SETTINGS_MODELS} == {
        *("Settings", "SesSettings", "SmtpSettings", "StubSettings", "WebhookSettings"),
        *services,
    }


def test_every_setting_is_in_it_once_commented_out() -> None:
    names = re.findall(r"^(.*)=", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(names) == sorted(f"#{name}" for name in VARIABLES)


def test_every_setting_has_a_comment_right_above_it() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    for above, line in pairwise(lines):
        if line.startswith("#EMAIL_"):
            assert re.match(r"# \w.*\.$", above), line


@pytest.mark.parametrize("model", SETTINGS_MODELS)
def test_each_value_in_it_is_the_default(
    uncommented: Path, monkeypatch: pytest.MonkeyPatch, model: type[EnvironmentSettings]
) -> None:
    needed = NEEDED.get(model, {})
    defaults = model(**needed)
    monkeypatch.setitem(model.model_config, "env_file", uncommented)
    assert model(**needed) == defaults
    values = dict(line.split("=", 1) for line in uncommented.read_text().splitlines() if line.startswith("EMAIL_"))
    for field, default in defaults:
        value = values[variable(field)]
        assert value or field in needed or default in (None, "", ()), (
            f"{field}: an empty value sets nothing, and hides a default"
        )


def test_it_sets_nothing_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_STAGE", "seen")
    defaults = Settings()
    monkeypatch.setitem(Settings.model_config, "env_file", EXAMPLE)
    assert Settings() == defaults


@pytest.mark.parametrize("model", SETTINGS_MODELS)
def test_a_value_that_is_changed_there_is_loaded(
    uncommented: Path, monkeypatch: pytest.MonkeyPatch, model: type[EnvironmentSettings]
) -> None:
    changed = {"EMAIL_STAGE": "prod", "EMAIL_SES_CONFIGURATION_SET": "s", "EMAIL_SMTP_PORT": "25"}
    changed["EMAIL_STUB_OUTBOX"] = "out"
    changed["EMAIL_MANDRILL_WEBHOOK_URL"] = "https://mail.example.com/webhooks/mandrill"
    changed |= {variable(f"{name}_api_url"): "https://api.example.com/v1" for name in SERVICES}
    text = uncommented.read_text()
    for name, value in changed.items():
        text = re.sub(f"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
    uncommented.write_text(text)
    monkeypatch.setitem(model.model_config, "env_file", uncommented)
    (field,) = {name.removeprefix("EMAIL_").lower() for name in changed} & model.model_fields.keys()
    needed = {name: value for name, value in NEEDED.get(model, {}).items() if name != field}
    assert str(getattr(model(**needed), field)) == changed[variable(field)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_that_a_document_names_is_a_setting(document: Path) -> None:
    assert set(re.findall(r"\bEMAIL_[A-Z_]*[A-Z]\b", document.read_text(encoding="utf-8"))) <= VARIABLES | OTHERS
