"""How settings are read from the environment and `.env`, and how a child process gets them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Self

from pydantic import AliasChoices, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from pydantic_settings import PydanticBaseSettingsSource


class SettingsError(SystemExit):
    """A setting is wrong. Unhandled, it stops the process with its message, one line a field, and exit code 1."""


class EnvironmentSettings(BaseSettings):
    """Settings, each of which is an EMAIL_ variable: the service's own, or those of one provider."""

    model_config = SettingsConfigDict(
        env_prefix="EMAIL_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # a traceback would show a password
    )

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # pydantic-settings names the sources in its call
        cls, _: type[BaseSettings], **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """One source of the environment and `.env`, else AWS_REGION there would win over EMAIL_REGION here."""
        environment = sources["env_settings"]
        environment.env_vars = {**sources["dotenv_settings"].env_vars, **environment.env_vars}
        return sources["init_settings"], environment

    @classmethod
    def read(cls, **given: object) -> Self:
        """Read the settings. A given value wins over the environment, and the environment over `.env`.

        Raises:
            SettingsError: a value is wrong; it says which, its value, and what would be right.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            raise SettingsError("\n".join(map(cls._explanation, error.errors()))) from None

    def environment(self) -> dict[str, str]:
        """The environment variables that give a child process the values that were set here."""
        return {variable(field): _text(getattr(self, field)) for field in sorted(self.model_fields_set)}

    @classmethod
    def _explanation(cls, problem: ErrorDetails) -> str:
        text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if not problem["loc"]:  # a check of several fields, whose text names them
            return text
        found, *path = map(str, problem["loc"])  # a field or an alias
        for field, info in cls.model_fields.items():
            alias = info.validation_alias
            names = list(map(str, alias.choices)) if isinstance(alias, AliasChoices) else [variable(field)]
            if found in (field, *names):
                break
        name = " or ".join(names)  # pydantic does not say by which it came
        value = ""
        if info.repr:  # the others may be private
            name += f"[{']['.join(path)}]" if path else ""
            value = f"is {_without_user_info(problem['input'])!r}; "
        if problem["type"] == "string_pattern_mismatch":  # no person reads a pattern: the description alone
            return f"{name}: {value}should be {info.description}"
        return f"{name}: {value}{text}" + (f" ({info.description})" if info.description else "")


def variable(field: str) -> str:
    """The environment variable of a field."""
    return f"EMAIL_{field.upper()}"


def _text(value: object) -> str:
    """The value as the environment has it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    return json.dumps(value) if isinstance(value, dict) else str("" if value is None else value)


def _without_user_info(value: object) -> object:
    """The value without what stands before an @: in a URL, well-formed or not, that may be a password."""
    return re.sub(r".*@", "…@", value, flags=re.DOTALL) if isinstance(value, str) else value
