"""The providers that send, one a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emails.providers.stub import StubProvider

if TYPE_CHECKING:
    from emails.providers.contract import Provider
    from settings import Settings


def load_providers(settings: Settings) -> dict[str, Provider]:
    """Every provider that this deployment can send by, by name."""
    return {StubProvider.name: StubProvider(settings.stub_outbox, settings.stub_failures)}
