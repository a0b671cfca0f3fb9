"""The providers that send emails. Each has its own module, and is an entry point of `email_service.providers`."""

from __future__ import annotations

import difflib
from contextlib import suppress
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from settings import SettingsError
from settings.environment import given_variables, known_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emails.providers.contract import Provider
    from settings import Settings

GROUP = "email_service.providers"


def load_providers(settings: Settings) -> dict[str, Provider]:
    """Return this deployment's providers by name: EMAIL_PROVIDER first, then those of EMAIL_SEND_VIA.

    An entry point names a callable that takes the settings and returns the provider. It reads the provider's own
    settings.

    Raises:
        SettingsError: a provider is not installed, has a wrong setting, or needs a longer claim lease. The text names
            every such problem.
    """
    providers: dict[str, Provider] = {}
    wrong = []
    for name in settings.providers:
        try:
            providers[name] = _load(name, settings)
        except SettingsError as error:
            wrong.append(str(error))
    if wrong:
        raise SettingsError("\n".join(wrong))
    return providers


def _load(name: str, settings: Settings) -> Provider:
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if name not in installed:
        raise SettingsError(
            f"EMAIL_PROVIDER or EMAIL_SEND_VIA: no provider {name!r} is installed; "
            f"available: {', '.join(sorted(installed)) or 'none, because email-service itself is not installed'}"
        )
    provider: Provider = installed[name].load()(settings)
    if settings.claim_lease < 2 * provider.longest_send:
        raise SettingsError(
            f"EMAIL_CLAIM_LEASE: is {settings.claim_lease:g}; should be at least twice the "
            f"{provider.longest_send:g} seconds that a send by {name} may take"
        )
    return provider


def unknown_variables() -> Iterator[str]:
    """Yield a sentence for each `EMAIL_` variable that is not a setting. It names the setting that may be meant.

    The settings of a provider that is installed but not used are known, too.
    """
    if given_variables() <= known_variables():
        return
    for point in entry_points(group=GROUP):  # providers have settings of their own
        with suppress(ImportError):  # this deployment does not use a provider whose dependencies are not installed
            point.load()
    import_module("emails.webhooks.settings")  # so are webhooks' secrets, which most programs do not use
    known = known_variables()
    for name in sorted(given_variables() - known):
        near = difflib.get_close_matches(name, known, n=1)
        yield f"{name} is not a setting, so it is ignored." + (f" Did you mean {near[0]}?" if near else "")
