"""The settings, one field each, and the checks that cross them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path  # noqa: TC003 (pydantic reads the annotation at run time)
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, HttpUrl, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LOCALSTACK = "localstack"
LOCALSTACK_ENDPOINT = "http://localhost:4566"

SQS_MAX_VISIBILITY_SECONDS = 12 * 3600  # SQS quotas: "Message visibility timeout"
STAGE_PATTERN = r"[a-z0-9][a-z0-9_-]{0,39}"  # what leaves room for `emails_…_tasks_dlq` in SQS's 80 characters
QUEUE_NAME_PATTERN = r"[A-Za-z0-9_-]{1,70}"  # the same, where the name comes from a queue URL
TABLE_NAME_PATTERN = r"[A-Za-z0-9_.-]{3,255}"  # DynamoDB naming rules

StubFailure = Annotated[str, Field(pattern=r"^(temporary|permanent|no-telling)(:[1-9][0-9]*)?$")]


def _from_json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


class SettingsError(SystemExit):
    """A setting is wrong. Unhandled, it stops the process with its message, one line a field, and exit code 1."""


class Settings(BaseSettings):
    """Every setting. Durations are in seconds. `.env.example` says the same for a person who sets them."""

    model_config = SettingsConfigDict(
        env_prefix="EMAIL_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    region: str = Field(
        default=LOCALSTACK,
        pattern=r"^(localstack|[a-z]{2,4}(-[a-z]+)+-\d)$",
        validation_alias=AliasChoices("EMAIL_REGION", "AWS_REGION"),
        description="an AWS region, or localstack for the local endpoint with dummy credentials",
    )
    endpoint_url: HttpUrl | None = Field(
        default=None,
        validation_alias=AliasChoices("EMAIL_ENDPOINT_URL", "AWS_ENDPOINT_URL"),
        description="an endpoint other than the region's own",
    )
    stage: str = Field(
        default="local", pattern=f"^{STAGE_PATTERN}$", description="names the queues and tables: emails_<stage>"
    )
    queue_url: HttpUrl | None = Field(
        default=None,
        validation_alias=AliasChoices("EMAIL_QUEUE_URL", "QUEUE_URL"),
        description="the raw queue, where it is not emails_<stage>; the other queues derive from its name",
    )
    table_name: str = Field(
        default="",
        pattern=f"^({TABLE_NAME_PATTERN})?$",
        validation_alias=AliasChoices("EMAIL_TABLE_NAME", "DYNAMO_TABLE"),
        description="the emails' table, where it is not emails_<stage>",
    )
    provider: Literal["stub"] = Field(default="stub", description="which provider sends")
    stub_outbox: Path | None = Field(default=None, description="the folder where the stub writes each email as .eml")
    stub_failures: Annotated[dict[str, StubFailure], NoDecode, BeforeValidator(_from_json)] = Field(
        default={},
        description="JSON, recipient to temporary, permanent or no-telling; :N fails the first N attempts only",
    )
    provider_timeout: float = Field(default=30, ge=1, le=900, description="the longest that one send may take")
    claim_lease: float = Field(default=120, ge=2, le=SQS_MAX_VISIBILITY_SECONDS, description="how long a claim holds")
    max_attempts: int = Field(default=8, ge=1, le=1000, description="sends tried before an email is Failed")
    retry_delay: float = Field(default=5, gt=0, le=900, description="backoff's first step after a temporary failure")
    retry_delay_max: float = Field(default=900, gt=0, le=86_400, description="backoff's last step")
    missing_row_wait: float = Field(
        default=60, ge=0, le=3600, description="how long a message waits for its row before its dead letter"
    )
    concurrency: int = Field(default=16, ge=1, le=1000, description="emails in work at once in one worker")
    visibility_timeout: int = Field(
        default=120,
        ge=10,
        le=SQS_MAX_VISIBILITY_SECONDS,
        description="after which SQS gives a killed worker's messages to another",
    )

    @field_validator("queue_url")
    @classmethod
    def _names_a_queue(cls, url: HttpUrl | None) -> HttpUrl | None:
        name = _last_segment(url) if url else "ok"
        if not re.fullmatch(QUEUE_NAME_PATTERN, name.removesuffix(".fifo")):
            msg = "should end in /<account>/<queue name>, the name at most 70 letters, digits, - and _"
            raise ValueError(msg)
        return url

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.claim_lease < 2 * self.provider_timeout:
            msg = (
                f"EMAIL_CLAIM_LEASE: is {self.claim_lease:g}; should be at least twice EMAIL_PROVIDER_TIMEOUT "
                f"({self.provider_timeout:g}), so that a claim outlives the send it guards"
            )
            raise ValueError(msg)
        if self.retry_delay_max < self.retry_delay:
            msg = (
                f"EMAIL_RETRY_DELAY_MAX: is {self.retry_delay_max:g}; should be at least EMAIL_RETRY_DELAY "
                f"({self.retry_delay:g})"
            )
            raise ValueError(msg)
        host = (self.queue_url and self.queue_url.host) or ""
        if (aws := re.fullmatch(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", host)) and aws[1] != self.region:
            msg = f"EMAIL_QUEUE_URL: is a queue in {aws[1]}; EMAIL_REGION is {self.region}; should be the same region"
            raise ValueError(msg)
        return self

    @property
    def is_local(self) -> bool:
        return self.region == LOCALSTACK

    @property
    def endpoint(self) -> str | None:
        """The endpoint of every AWS service without a trailing slash, or None for the region's own."""
        if self.endpoint_url:
            return str(self.endpoint_url).rstrip("/")
        return LOCALSTACK_ENDPOINT if self.is_local else None

    @property
    def queue(self) -> str:
        """The raw queue's name."""
        return _last_segment(self.queue_url) if self.queue_url else f"emails_{self.stage}"

    @property
    def tasks_queue(self) -> str:
        """The name of the queue of Celery's own messages."""
        return f"{self.queue.removesuffix('.fifo')}_tasks"

    @property
    def queues(self) -> tuple[str, ...]:
        """Every queue that a worker consumes."""
        return self.queue, self.tasks_queue

    @property
    def table(self) -> str:
        """The emails' table."""
        return self.table_name or f"emails_{self.stage}"

    def __str__(self) -> str:
        return (
            f"region={self.region} endpoint={self.endpoint or 'aws'} queue={self.queue} table={self.table} "
            f"provider={self.provider}"
        )


def dead_letter_queue(queue: str) -> str:
    """The name of a queue's dead-letter queue; a FIFO queue's is FIFO too, as SQS demands."""
    if queue.endswith(".fifo"):
        return f"{queue.removesuffix('.fifo')}_dlq.fifo"
    return f"{queue}_dlq"


@cache
def get_settings() -> Settings:
    """The process's settings, read once.

    Raises:
        SettingsError: a value is wrong; it says which, its value, and what would be right.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_explanations(error))) from None


def variable(field: str) -> str:
    """The environment variable of a field."""
    return f"EMAIL_{field.upper()}"


def _explanations(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        text = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if not problem["loc"]:  # a cross-check, which names its own fields
            lines.append(text)
            continue
        field, *path = (str(part) for part in problem["loc"])
        name = field if field.isupper() else variable(field)
        where = f"[{']['.join(path)}]" if path else ""
        description = Settings.model_fields[_field(name)].description
        if problem["type"] == "string_pattern_mismatch":  # no person reads a pattern: the description alone
            lines.append(f"{name}{where}: is {problem['input']!r}; should be {description}")
        else:
            lines.append(f"{name}{where}: is {problem['input']!r}; {text} ({description})")
    return lines


def _field(name: str) -> str:
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        if name == variable(field) or (isinstance(alias, AliasChoices) and name in alias.choices):
            return field
    raise KeyError(name)


def _last_segment(url: HttpUrl) -> str:
    return urlsplit(str(url)).path.rpartition("/")[2]
