"""A stage: its settings, and the names that are derived from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from emails.providers.ses import SesSettings
from emails.providers.smtp_settings import SmtpSettings
from emails.providers.stub import StubSettings
from settings import Settings, SettingsError
from settings.environment import variable
from settings.model import S3_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

# A stage cannot choose these: its account and region decide where it is, and its name decides all other names.
NOT_FOR_A_STAGE = frozenset({"region", "endpoint_url", "stage", "queue_url", "table_name"})

# The part of the visibility timeout before a function starts with a message and after it has sent its last email.
SECONDS_BESIDE_A_SEND = 40


class StageSettings(SesSettings, SmtpSettings, StubSettings, Settings):
    """All settings of a stage. They come only from cdk.json, because the environment here is not the stage's."""

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # as in settings.environment
        cls, _: type[BaseSettings], **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (sources["init_settings"],)


SECRETS = frozenset(name for name, field in StageSettings.model_fields.items() if "Secret" in str(field.annotation))


@dataclass(frozen=True)
class Stage:
    """An entry under `stages` in `cdk.json`: a name, and the settings that differ from their defaults."""

    settings: StageSettings
    environment: dict[str, str]
    webhooks: bool = False  # whether it has a function URL for them

    @classmethod
    def parse(cls, name: str, chosen: Mapping[str, Any]) -> Stage:
        """Check the entry as a worker checks its environment when it starts.

        Raises:
            SettingsError: A setting is wrong, unknown or secret.
        """
        webhooks, chosen = chosen.get("webhooks", False), {k: v for k, v in chosen.items() if k != "webhooks"}
        if not isinstance(webhooks, bool):
            raise SettingsError(f"stages.{name}: webhooks should be true or false")
        if secrets := chosen.keys() & SECRETS:
            raise SettingsError(
                f"stages.{name}: everyone who may read the stack could read {', '.join(sorted(secrets))}"
            )
        unknown = chosen.keys() - (StageSettings.model_fields.keys() - NOT_FOR_A_STAGE)
        if unknown:
            raise SettingsError(f"stages.{name}: there is no setting {', '.join(sorted(unknown))} for a stage")
        try:
            settings = StageSettings(**{"stage": name, "ses_configuration_set": f"emails_{name}", **chosen})
        except ValidationError as error:
            problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise SettingsError(f"stages.{name}: {'; '.join(problems)}") from None
        longest_fetch = S3_SECONDS if settings.attachment_prefixes else 0
        least = settings.provider_timeout + longest_fetch + SECONDS_BESIDE_A_SEND
        if settings.visibility_timeout < least:
            raise SettingsError(
                f"stages.{name}: visibility_timeout is {settings.visibility_timeout}; should be at least {least:g}, "
                "so that a function that sends ends before its messages come again"
            )
        return cls(settings, settings.environment() | {variable("log_format"): "json"}, webhooks)

    @property
    def stack_name(self) -> str:
        """The name of the Lambda stack, `ScalableEmail<Stage>`, with which the data stack's begins."""
        return "ScalableEmail" + "".join(part.capitalize() for part in re.split("[-_]", self.settings.stage))

    @property
    def is_production(self) -> bool:
        """Whether the stage's data outlives its stacks."""
        return self.settings.stage.startswith("prod")
