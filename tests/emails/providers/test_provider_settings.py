"""Each provider's own settings, and the error for a wrong one at start."""

from __future__ import annotations

from pathlib import Path

import pytest

from emails.providers import load_providers, unknown_variables
from emails.providers.smtp_settings import SmtpSettings
from emails.providers.stub import StubSettings
from settings import Settings, SettingsError
from tests.settings.test_model import SECRET, URLS_WITH_A_PASSWORD


@pytest.fixture
def complaint(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """Return the lines that a worker prints before it exits, with the parameter as its environment."""
    for name, value in ({"EMAIL_PROVIDER": "ses", "EMAIL_SEND_VIA": "smtp,stub"} | request.param).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_providers(Settings.read())
    return str(raised.value).split("\n")


@pytest.mark.parametrize(
    ("complaint", "start", "right"),
    [
        (
            {"EMAIL_SMTP_HOST": "smtp://mx"},
            "EMAIL_SMTP_HOST: is 'smtp://mx'; ",
            "should be the SMTP server: its host name",
        ),
        ({"EMAIL_SMTP_HOST": "a..b"}, "EMAIL_SMTP_HOST: is 'a..b'; ", "should be the SMTP server: its host name"),
        (
            {"EMAIL_SMTP_HOST": "a" * 64},
            f"EMAIL_SMTP_HOST: is '{'a' * 64}'; ",
            "should be the SMTP server: its host name",
        ),
        ({"EMAIL_SMTP_PORT": "0"}, "EMAIL_SMTP_PORT: is '0'; ", "greater than or equal to 1"),
        ({"EMAIL_SMTP_SECURITY": "ssl"}, "EMAIL_SMTP_SECURITY: is 'ssl'; ", "should be 'starttls', 'tls' or 'none'"),
        (
            {"EMAIL_SMTP_USERNAME": "shop", "EMAIL_SMTP_SECURITY": "none"},
            "EMAIL_SMTP_USERNAME: should be empty if ",
            "should be empty if EMAIL_SMTP_SECURITY is none",
        ),
        ({"EMAIL_SES_CONTACT_LIST": "a b"}, "EMAIL_SES_CONTACT_LIST: is 'a b'; ", "should be an SES contact list"),
    ],
    ids=["URL", "no host", "long host", "port", "security", "clear text", "list"],
    indirect=["complaint"],
)
def test_a_wrong_value_is_one_line_with_the_name_the_value_and_what_would_be_right(
    complaint: list[str], start: str, right: str
) -> None:
    (line,) = [line for line in complaint if not line.startswith("EMAIL_SMTP_HOST: is missing")]
    assert line.startswith(start)
    assert right in line


@pytest.mark.parametrize(
    "complaint",
    [
        {
            "EMAIL_SES_CONFIGURATION_SET": "a b",
            "EMAIL_SMTP_PORT": "0",
            "EMAIL_SMTP_SECURITY": "ssl",
            "EMAIL_STUB_FAILURES": "ada",
        }
    ],
    indirect=True,
)
def test_everything_that_is_wrong_with_the_providers_is_said_at_once(complaint: list[str]) -> None:
    assert [line.partition(":")[0] for line in complaint] == [
        "EMAIL_SES_CONFIGURATION_SET",
        "EMAIL_SMTP_PORT",
        "EMAIL_SMTP_SECURITY",
        "EMAIL_STUB_FAILURES",
    ]


@pytest.mark.parametrize(
    ("complaint", "line"),
    [
        ({"EMAIL_STUB_FAILURES": "ada"}, "EMAIL_STUB_FAILURES: should be JSON (a JSON object that maps recipients to "),
        (
            {"EMAIL_STUB_FAILURES": "[1]"},
            "EMAIL_STUB_FAILURES: should be a valid dictionary (a JSON object that maps recipients to ",
        ),
        (
            {"EMAIL_STUB_FAILURES": '{"ada@example.com": "sometimes"}'},
            "EMAIL_STUB_FAILURES: should be a JSON object that maps recipients to temporary, permanent or unknown",
        ),
    ],
    indirect=["complaint"],
    ids=["no JSON", "no object", "no failure"],
)
def test_a_wrong_value_that_may_be_private_is_not_said(complaint: list[str], line: str) -> None:
    assert complaint[-1].startswith(line)
    assert "ada" not in complaint[-1]


@pytest.mark.parametrize("name", ["EMAIL_SES_CONFIGURATION_SET", "EMAIL_SES_CONTACT_LIST", "EMAIL_STUB_FAILURES"])
@pytest.mark.parametrize("url", URLS_WITH_A_PASSWORD)
def test_no_setting_says_a_password_in_a_url(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(SettingsError, match=name) as raised:
        load_providers(Settings(provider="ses", send_via="stub"))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("name", sorted(SmtpSettings.model_fields))
@pytest.mark.parametrize("url", URLS_WITH_A_PASSWORD)
def test_no_setting_of_smtp_says_a_password_in_a_url(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(f"EMAIL_{name.upper()}", url)
    with pytest.raises(SettingsError) as raised:
        load_providers(Settings(provider="smtp"))
    assert SECRET not in str(raised.value)


def test_a_password_is_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_SMTP_PASSWORD", "open sesame")
    settings = SmtpSettings()
    assert settings.smtp_password
    assert settings.smtp_password.get_secret_value() == "open sesame"
    assert "sesame" not in f"{settings} {settings!r} {settings.model_dump_json()}"


@pytest.mark.parametrize("host", ["mx.example.com", "localhost", "127.0.0.1", "::1", "inbox", "mx_1.example.com."])
def test_an_smtp_server_is_a_name_or_an_address(host: str) -> None:
    assert SmtpSettings(smtp_host=host).smtp_host == host


@pytest.mark.parametrize("name", ["", "mail.example.com", "a.b", "x-1.2.example", f"{'a' * 63}.{'b' * 63}.example"])
def test_an_ehlo_name_is_a_domain_name(name: str) -> None:
    assert SmtpSettings(smtp_ehlo_name=name).smtp_ehlo_name == name


@pytest.mark.parametrize(
    "name",
    [
        *("f3a9c1", "localhost", "mail.example.com.", "mail_1.example.com", "-a.example", "a-.example", "a..example"),
        *("192.0.2.1", "[127.0.0.1]", "a.example b", "bücher.example", "a.example\r\nMAIL FROM:<x@example.com>"),
        *("a.exam\u200bple", f"{'a' * 64}.example", f"{'a.' * 130}example"),
    ],
)
def test_an_ehlo_name_that_servers_refuse_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("EMAIL_SMTP_EHLO_NAME", name)
    with pytest.raises(SettingsError, match=r"^EMAIL_SMTP_EHLO_NAME: "):
        SmtpSettings.read()


def test_stub_failures_come_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_STUB_FAILURES", '{"a@example.com": "temporary:2", "b@example.com": "unknown"}')
    monkeypatch.setenv("EMAIL_STUB_OUTBOX", "outbox")
    assert StubSettings().stub_failures == {"a@example.com": "temporary:2", "b@example.com": "unknown"}
    assert StubSettings().stub_outbox == Path("outbox")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("EMAIL_STAEG", "EMAIL_STAGE"),
        ("EMAIL_QUEUE", "EMAIL_QUEUE_URL"),
        ("EMAIL_SMTP_USER", "EMAIL_SMTP_USERNAME"),
        ("email_ses_configuration", "EMAIL_SES_CONFIGURATION_SET"),
    ],
)
@pytest.mark.parametrize("is_in_a_file", [False, True], ids=["environment", ".env"])
def test_a_variable_that_is_no_setting_is_named_with_the_nearest_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, meant: str, is_in_a_file: bool
) -> None:
    if is_in_a_file:
        monkeypatch.chdir(tmp_path)
        Path(".env").write_text(f"{name}=x\n", encoding="utf-8")
    else:
        monkeypatch.setenv(name, "x")
    assert list(unknown_variables()) == [f"{name.upper()} is not a setting, so it is ignored. Did you mean {meant}?"]


def test_a_variable_that_resembles_no_setting_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_0123456789", "x")
    assert list(unknown_variables()) == ["EMAIL_0123456789 is not a setting, so it is ignored."]


def test_a_setting_of_a_provider_that_is_not_used_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_SMTP_HOST", "mx.example.com")
    assert list(unknown_variables()) == []
