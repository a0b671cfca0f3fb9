"""The settings, which are read from the environment and `.env` and validated at startup."""

from settings.environment import EnvironmentSettings, SettingsError
from settings.model import Settings, get_settings, override

__all__ = ["EnvironmentSettings", "Settings", "SettingsError", "get_settings", "override"]
