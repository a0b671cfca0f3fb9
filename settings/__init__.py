"""What can be configured, read from the environment and `.env`, and validated at start."""

from settings.model import Settings, SettingsError, get_settings

__all__ = ["Settings", "SettingsError", "get_settings"]
