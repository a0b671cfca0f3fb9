"""The settings, each of which is a field, and the checks that involve several of them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path  # noqa: TC003 (pydantic reads the annotation at run time)
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field, HttpUrl, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from settings.environment import EnvironmentSettings

LOCALSTACK = "localstack"
LOCALSTACK_ENDPOINT = "http://localhost:4566"
# The local endpoint wants signed requests but knows no accounts, so any region and key will do.
LOCAL_REGION = "us-east-1"
LOCAL_ACCESS_KEY = "test"

SQS_MAX_VISIBILITY_SECONDS = 12 * 3600  # SQS quotas: "Message visibility timeout"
S3_SECONDS = 40  # the longest that one S3 call takes, with the attempts, timeouts and backoff of settings/aws.py
STAGE_PATTERN = r"[a-z0-9][a-z0-9_-]{0,39}"  # short enough for `emails_…_tasks_dlq` to fit SQS's 80 characters
QUEUE_NAME_PATTERN = r"[A-Za-z0-9_-]{1,66}"  # the same for a name from a queue URL: `…_bulk_dlq.fifo` has to fit
TABLE_NAME_PATTERN = r"[A-Za-z0-9_.-]{3,248}"  # DynamoDB's naming rules, with room for `_events`
ADDRESS_PATTERN = r"[A-Za-z0-9_%+-]+(\.[A-Za-z0-9_%+-]+)*@([A-Za-z0-9]+(-+[A-Za-z0-9]+)*\.)+[A-Za-z]{2,}"
ProviderName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
# A prefix is a whole folder or bucket, because "s3://bucket/a" would also match URIs in "s3://bucket/another".
AttachmentPrefix = Annotated[str, Field(pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/([^,]+/)?$")]


def _comma_separated(value: object) -> object:
    return tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value


class Settings(EnvironmentSettings):
    """All settings except the providers' own. Durations are in seconds. `.env.example` documents them for users."""

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
        default="local",
        pattern=f"^{STAGE_PATTERN}$",
        description="at most 40 lower-case letters, digits, - and _; they name the queues and tables: emails_<stage>",
    )
    queue_url: HttpUrl | None = Field(
        default=None,
        validation_alias=AliasChoices("EMAIL_QUEUE_URL", "QUEUE_URL"),
        description="the raw queue, if it is not emails_<stage>; the other queues' names are derived from it",
    )
    table_name: str = Field(
        default="",
        pattern=f"^({TABLE_NAME_PATTERN})?$",
        validation_alias=AliasChoices("EMAIL_TABLE_NAME", "DYNAMO_TABLE"),
        description="3 to 248 letters, digits, - _ and .: the emails' table, if it is not emails_<stage>",
    )
    provider: Annotated[tuple[ProviderName, ...], NoDecode, BeforeValidator(_comma_separated)] = Field(
        default=("stub",),
        description="the provider that sends, like smtp, or several like smtp,ses of which the first sends",
    )
    send_via: Annotated[tuple[ProviderName, ...], NoDecode, BeforeValidator(_comma_separated)] = Field(
        default=(), description="names like smtp,stub: the other providers that a row's SendVia may ask for"
    )
    redirect_to: str = Field(
        default="",
        pattern=rf"^({ADDRESS_PATTERN})?$",
        max_length=254,  # RFC 5321, section 4.5.3.1.3, without the angle brackets
        repr=False,  # an address must not be in a log
        description="an ASCII address like me@example.com, which gets every email instead of its recipients",
    )
    provider_timeout: float = Field(default=30, ge=1, le=900, description="the longest that one send may take")
    claim_lease: float = Field(default=120, ge=2, le=SQS_MAX_VISIBILITY_SECONDS, description="how long a claim lasts")
    attachment_prefixes: Annotated[tuple[AttachmentPrefix, ...], NoDecode, BeforeValidator(_comma_separated)] = Field(
        default=(),
        description="folders like s3://bucket/mail/,s3://other-bucket/ whose files rows may attach; each ends in a /",
    )
    max_attempts: int = Field(
        default=8, ge=1, le=1000, description="how many times an email is tried before it is Failed"
    )
    retry_delay: float = Field(
        default=5, gt=0, le=900, description="the first step of the backoff after a temporary failure"
    )
    retry_delay_max: float = Field(default=900, gt=0, le=86_400, description="the longest step of the backoff")
    send_rate: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="how many emails a second all workers of the stage send together by each provider",
    )
    missing_row_wait: float = Field(
        default=60, ge=0, le=3600, description="how long a message waits for its row before it becomes a dead letter"
    )
    sweep_after: float = Field(
        default=3600, ge=0, le=30 * 86_400, description="how old a Pending row must be before sweep enqueues it again"
    )
    concurrency: int = Field(default=32, ge=1, le=1000, description="how many emails one worker processes at once")
    grouped_requests: bool = Field(
        default=True,
        description="on or off: whether the emails that a worker processes at once share DynamoDB requests",
    )
    visibility_timeout: int = Field(
        default=120,
        ge=10,
        le=SQS_MAX_VISIBILITY_SECONDS,
        description="after how many seconds SQS gives a killed worker's messages to another",
    )

    flower_actions: bool = Field(
        default=False,
        description="on or off: whether Flower's pages have buttons that cancel, resolve and redrive emails",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="the format of a worker's log: console for people, json for machines"
    )
    liveness_file: Path | None = Field(
        default=None,
        description="a file that a worker updates while it receives, for `python -m celery_sqs.liveness FILE`",
    )

    @field_validator("endpoint_url")
    @classmethod
    def _has_no_user_info(cls, url: HttpUrl | None) -> HttpUrl | None:
        # Nothing would use them, since AWS requests are signed, but logs, errors and Flower would show them.
        if url and (url.username is not None or url.password is not None):
            raise ValueError(
                "should have no user name or password: credentials come from the environment or the machine's role"
            )
        return url

    # `info.data` holds only the fields above that are valid. An invalid field reports its own error.
    @field_validator("queue_url")
    @classmethod
    def _names_a_queue_of_the_region(cls, url: HttpUrl | None, info: ValidationInfo) -> HttpUrl | None:
        if url is None:
            return url
        if not re.fullmatch(QUEUE_NAME_PATTERN, _last_segment(url).removesuffix(".fifo")):
            raise ValueError("should end in /<account>/<queue name>; the name has at most 66 letters, digits, - and _")
        aws = re.fullmatch(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", url.host or "")
        if aws and aws[1] != info.data.get("region", aws[1]):
            raise ValueError(f"should be in EMAIL_REGION ({info.data['region']})")
        return url

    @field_validator("claim_lease")
    @classmethod
    def _outlives_the_send_it_guards(cls, lease: float, info: ValidationInfo) -> float:
        timeout = info.data.get("provider_timeout", 0)
        if lease < 2 * timeout:
            raise ValueError(f"should be at least twice EMAIL_PROVIDER_TIMEOUT ({timeout:g})")
        return lease

    @field_validator("attachment_prefixes")
    @classmethod
    def _can_be_fetched_under_a_claim(cls, prefixes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        lease = info.data.get("claim_lease", 2 * S3_SECONDS)
        if prefixes and lease < 2 * S3_SECONDS:
            raise ValueError(
                f"needs EMAIL_CLAIM_LEASE ({lease:g}) to be at least {2 * S3_SECONDS}: files are fetched under a claim"
            )
        return prefixes

    @field_validator("retry_delay_max")
    @classmethod
    def _is_the_longest(cls, delay: float, info: ValidationInfo) -> float:
        first = info.data.get("retry_delay", 0)
        if delay < first:
            raise ValueError(f"should be at least EMAIL_RETRY_DELAY ({first:g})")
        return delay

    @property
    def providers(self) -> tuple[str, ...]:
        """The names of all providers that may send: those of EMAIL_PROVIDER first, each name once."""
        return tuple(dict.fromkeys((*self.provider, *self.send_via)))

    @property
    def is_local(self) -> bool:
        return self.region == LOCALSTACK

    @property
    def endpoint(self) -> str | None:
        """The endpoint of all AWS services, without a trailing slash, or None if the region's own are used."""
        if self.endpoint_url:
            return str(self.endpoint_url).rstrip("/")
        return LOCALSTACK_ENDPOINT if self.is_local else None

    @property
    def queue(self) -> str:
        """The name of the raw queue."""
        return _last_segment(self.queue_url) if self.queue_url else f"emails_{self.stage}"

    @property
    def tasks_queue(self) -> str:
        """The name of the queue that holds Celery's own messages."""
        return f"{self.queue.removesuffix('.fifo')}_tasks"

    @property
    def bulk_queue(self) -> str:
        """The name of the raw queue for bulk emails, which give way to those of the other raw queue."""
        base, dot, fifo = self.queue.partition(".")
        return f"{base}_bulk{dot}{fifo}"

    @property
    def raw_queues(self) -> tuple[str, ...]:
        """The names of the queues to which producers send ids."""
        return self.queue, self.bulk_queue

    @property
    def callbacks_queue(self) -> str:
        """The name of the queue that receives what providers report about sent emails."""
        return f"{self.queue.removesuffix('.fifo')}_callbacks"

    @property
    def webhook_secret(self) -> str:
        """The name of the secret in Secrets Manager from which the function for webhooks reads their secrets."""
        return f"{self.queue.removesuffix('.fifo')}_webhooks"

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of all queues that a worker consumes."""
        return *self.raw_queues, self.tasks_queue, self.callbacks_queue

    @property
    def control_queue_prefix(self) -> str:
        """The prefix of the queues that carry events and remote control between workers and monitors such as Flower."""
        return f"{self.queue.removesuffix('.fifo')}_control_"

    @property
    def table(self) -> str:
        """The name of the emails' table."""
        return self.table_name or f"emails_{self.stage}"

    @property
    def events_table(self) -> str:
        """The name of the table that holds what providers reported about each recipient."""
        base = self.table.removeprefix("emails_")
        return f"{self.table}_events" if base == self.table else f"email_events_{base}"

    def __str__(self) -> str:
        rate = f" send_rate={self.send_rate:g}" if self.send_rate else ""
        redirect = "; EMAIL_REDIRECT_TO is set, so no email reaches its recipients" if self.redirect_to else ""
        return (
            f"region={self.region} endpoint={self.endpoint or 'aws'} queue={self.queue} table={self.table} "
            f"provider={','.join(self.provider)}{rate}{redirect}"
        )


def dead_letter_queue(queue: str) -> str:
    """Return the name of a queue's dead-letter queue. It is FIFO if the queue is, as SQS requires."""
    if queue.endswith(".fifo"):
        return f"{queue.removesuffix('.fifo')}_dlq.fifo"
    return f"{queue}_dlq"


_overrides: dict[str, object] = {}


@cache
def get_settings() -> Settings:
    """Return the settings of this process, which are read only once.

    Raises:
        SettingsError: A setting is wrong.
    """
    return Settings.read(**_overrides)


def override(**values: object) -> None:
    """Set values that win over the environment, in this process and in processes that it forks."""
    _overrides.update(values)
    get_settings.cache_clear()


def _last_segment(url: HttpUrl) -> str:
    return urlsplit(str(url)).path.rpartition("/")[2]
