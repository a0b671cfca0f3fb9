"""Which providers exist, and what is checked about them at start."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from typing import TYPE_CHECKING

import pytest

from emails import providers
from emails.providers import GROUP, load_providers
from emails.providers.contract import Receipt
from emails.providers.stub import StubProvider
from settings import Settings, SettingsError

if TYPE_CHECKING:
    from emails.email import Email


class Acme:
    """A provider from a deployment's own package."""

    name = "acme"
    max_message_bytes = None

    def __init__(self, settings: Settings) -> None:
        self.longest_send = settings.provider_timeout

    def max_send_rate(self) -> float | None:
        return None

    def send(self, email: Email) -> Receipt:
        return Receipt(self.name, email.id)


@pytest.fixture
def _acme(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [*providers.entry_points(group=GROUP), EntryPoint("acme", f"{__name__}:Acme", GROUP)]
    monkeypatch.setattr(EntryPoint, "load", lambda self: Acme if self.name == "acme" else StubProvider.from_settings)
    monkeypatch.setattr(providers, "entry_points", lambda group: EntryPoints(p for p in points if p.group == group))


def test_the_stub_alone_is_there_by_default() -> None:
    assert list(load_providers(Settings())) == ["stub"]


@pytest.mark.usefixtures("_acme")
def test_a_package_of_the_deployment_adds_one_by_an_entry_point() -> None:
    assert isinstance(load_providers(Settings(provider="acme"))["acme"], Acme)


@pytest.mark.usefixtures("_acme")
def test_a_row_may_ask_for_the_others_that_are_named() -> None:
    assert list(load_providers(Settings(provider="acme", send_via="stub"))) == ["acme", "stub"]


def test_a_name_that_nobody_installed_stops_the_start_and_says_which_there_are() -> None:
    with pytest.raises(SettingsError, match=r"no provider 'pigeon' is installed; available: .*stub"):
        load_providers(Settings(send_via="stub,pigeon"))


@pytest.mark.usefixtures("_acme")
def test_a_lease_too_short_for_a_provider_stops_the_start() -> None:
    settings = Settings(provider="acme", provider_timeout=30, claim_lease=60)
    load_providers(settings)
    with pytest.raises(SettingsError, match="should be at least twice the 31 seconds that a send by acme may take"):
        load_providers(settings.model_copy(update={"provider_timeout": 31}))
