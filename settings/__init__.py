"""What can be configured, read from the environment and `.env`, and validated at start."""

from settings.environment import EnvironmentSettings, SettingsError
from settings.model import Settings, get_settings, override

__all__ = ["EnvironmentSettings", "Settings", "SettingsError", "get_settings", "override"]
