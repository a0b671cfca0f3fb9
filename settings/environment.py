"""Reads settings from the environment and `.env`, and passes them on to child processes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Self

from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from pydantic_settings import PydanticBaseSettingsSource


class SettingsError(SystemExit):
    """A setting is wrong. If nothing catches it, the process prints one line per wrong setting and exits with 1."""


class EnvironmentSettings(BaseSettings):
    """A group of settings that come from `EMAIL_` variables: the service's own, or those of one provider."""

    model_config = SettingsConfigDict(
        env_prefix="EMAIL_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # a traceback could otherwise show a password
    )

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # pydantic-settings passes the sources by name
        cls, _: type[BaseSettings], **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment and `.env` as one source.

        If they were two, AWS_REGION in the environment would win over EMAIL_REGION in `.env`.
        """
        environment = sources["env_settings"]
        environment.env_vars = {**sources["dotenv_settings"].env_vars, **environment.env_vars}
        return sources["init_settings"], environment

    @classmethod
    def read(cls, **given: object) -> Self:
        """Read the settings. A given value wins over the environment, and the environment wins over `.env`.

        Raises:
            SettingsError: A value is wrong. The message names the setting, says what would be right, and quotes the
                value unless it may be private.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            raise SettingsError("\n".join(map(cls._explanation, error.errors()))) from None

    def environment(self) -> dict[str, str]:
        """Return the environment variables that give a child process the values that were set here."""
        return {variable(field): _text(getattr(self, field)) for field in sorted(self.model_fields_set)}

    @classmethod
    def _explanation(cls, problem: ErrorDetails) -> str:
        text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if not problem["loc"]:  # a check of several fields, which are named in its text
            return text
        found, *path = map(str, problem["loc"])  # the name of a field or one of its aliases
        for field, info in cls.model_fields.items():
            alias = info.validation_alias
            names = list(map(str, alias.choices)) if isinstance(alias, AliasChoices) else [variable(field)]
            if found in (field, *names):
                break
        name = " or ".join(names)  # pydantic does not say which of the names was used
        if problem["type"] == "missing":
            return f"{name}: is missing; should be {info.description}"
        value = ""
        if info.repr:  # the values of other fields may be private
            name += f"[{']['.join(path)}]" if path else ""
            value = f"is {_without_user_info(problem['input'])!r}; "
        if problem["type"] == "string_pattern_mismatch":  # the description says it without a regular expression
            return f"{name}: {value}should be {info.description}"
        return f"{name}: {value}{text}" + (f" ({info.description})" if info.description else "")


def variable(field: str) -> str:
    """Return the name of the field's environment variable."""
    return f"EMAIL_{field.upper()}"


def known_variables() -> set[str]:
    """Return the names of the variables of all settings whose modules have been imported."""
    return {variable(field) for model in EnvironmentSettings.__subclasses__() for field in model.model_fields}


def given_variables() -> set[str]:
    """Return the names of the `EMAIL_` variables in the environment and in `.env`, whether known or not."""
    sources = EnvSettingsSource(EnvironmentSettings), DotEnvSettingsSource(EnvironmentSettings)
    names = {name.upper() for source in sources for name in source.env_vars}  # upper and lower case are the same
    return {name for name in names if name.startswith(variable(""))}


def _text(value: object) -> str:
    """Return the value as text for an environment variable."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, dict) else str("" if value is None else value)


def _without_user_info(value: object) -> object:
    """Remove everything before an `@`. It may be a password in a URL, even if the URL is not well-formed."""
    return re.sub(r".*@", "…@", value, flags=re.DOTALL) if isinstance(value, str) else value
