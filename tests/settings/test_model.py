"""What can be configured under which names, and the error for each wrong value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import HttpUrl, ValidationError

from settings import Settings, SettingsError, get_settings
from settings.environment import variable
from settings.model import LOCALSTACK_ENDPOINT, dead_letter_queue

if TYPE_CHECKING:
    from pathlib import Path

EU_QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/shop-mail"


@pytest.fixture
def complaint(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """Return the lines that a process prints before it exits, with the fixture's parameter as its environment."""
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        get_settings()
    return str(raised.value).split("\n")


def test_the_defaults_are_a_stage_on_this_machine() -> None:
    settings = Settings()
    assert settings.is_local
    assert settings.endpoint == LOCALSTACK_ENDPOINT
    assert settings.queues == ("emails_local", "emails_local_bulk", "emails_local_tasks", "emails_local_callbacks")
    assert settings.table == "emails_local"
    assert (settings.provider, settings.concurrency, settings.visibility_timeout) == (("stub",), 32, 120)


def test_a_real_region_has_the_endpoint_of_its_own() -> None:
    settings = Settings(region="eu-west-1")
    assert not settings.is_local
    assert settings.endpoint is None


@pytest.mark.parametrize("region", ["localstack", "eu-central-1", "us-gov-west-1", "ap-southeast-7", "us-isob-east-1"])
def test_a_region_is_aws_s_or_localstack(region: str) -> None:
    assert Settings(region=region).region == region


def test_an_endpoint_has_no_slash_at_its_end() -> None:
    assert Settings(endpoint_url=HttpUrl("http://localhost:4567/")).endpoint == "http://localhost:4567"


@pytest.mark.parametrize(
    ("ours", "alias", "value", "other", "field"),
    [
        ("EMAIL_REGION", "AWS_REGION", "eu-west-1", "us-east-1", "region"),
        ("EMAIL_ENDPOINT_URL", "AWS_ENDPOINT_URL", "http://a.example:1", "http://b.example:2", "endpoint"),
        ("EMAIL_QUEUE_URL", "QUEUE_URL", "http://a.example/1/ours", "http://a.example/1/other", "queue_url"),
        ("EMAIL_TABLE_NAME", "DYNAMO_TABLE", "ours", "other", "table"),
    ],
)
def test_an_alias_sets_what_our_own_name_does_not(  # noqa: PLR0913 (the table's columns)
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, ours: str, alias: str, value: str, other: str, field: str
) -> None:
    def is_now() -> str:
        return str(getattr(Settings(), field))

    monkeypatch.setenv(alias, other)
    assert is_now() == other
    monkeypatch.setenv(ours, "")
    assert is_now() == other
    monkeypatch.setenv(ours, value)
    assert is_now() == value
    monkeypatch.delenv(ours)
    env_file = tmp_path / ".env"
    env_file.write_text(f"{ours}={value}\n")
    monkeypatch.setitem(Settings.model_config, "env_file", env_file)
    assert is_now() == value, "ours in .env wins over an alias in the environment too"


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("EMAIL_STAGE=file\nEMAIL_CONCURRENCY=3\nEMAIL_UNKNOWN=1\n")
    monkeypatch.setitem(Settings.model_config, "env_file", env_file)
    monkeypatch.setenv("EMAIL_STAGE", "environment")
    assert (Settings().stage, Settings().concurrency) == ("environment", 3)


@pytest.mark.parametrize(
    ("url", "queue", "tasks_queue", "bulk_queue", "dead_letters"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1/post", "post", "post_tasks", "post_bulk", "post_dlq"),
        ("http://localhost:4566/000000000000/Mail", "Mail", "Mail_tasks", "Mail_bulk", "Mail_dlq"),
        ("http://localhost:4566/000000000000/mail.fifo", "mail.fifo", "mail_tasks", "mail_bulk.fifo", "mail_dlq.fifo"),
    ],
    ids=["standard", "local", "FIFO"],
)
def test_the_other_queues_derive_from_the_queue_url(
    url: str, queue: str, tasks_queue: str, bulk_queue: str, dead_letters: str
) -> None:
    settings = Settings(queue_url=HttpUrl(url), region="eu-west-1", stage="prod")
    assert settings.queues[:3] == (queue, bulk_queue, tasks_queue)
    assert settings.callbacks_queue == tasks_queue.replace("_tasks", "_callbacks")
    assert dead_letter_queue(settings.queue) == dead_letters
    assert settings.table == "emails_prod"


@pytest.mark.parametrize(
    "longest",
    [
        {"stage": "s" * 40},
        {"queue_url": HttpUrl(f"http://localhost/1/{'q' * 66}")},
        {"queue_url": HttpUrl(f"http://localhost/1/{'q' * 66}.fifo")},
    ],
    ids=["stage", "queue", "FIFO"],
)
def test_the_longest_names_are_names_that_sqs_takes(longest: dict[str, Any]) -> None:
    for queue in Settings(**longest).queues:
        assert len(queue) <= 80
        assert len(dead_letter_queue(queue)) <= 80


@pytest.mark.parametrize(
    ("complaint", "name", "value", "right"),
    [
        ({"EMAIL_REGION": "mars"}, "EMAIL_REGION", "'mars'", "should be an AWS region, or localstack"),
        ({"AWS_REGION": "eu-west"}, "AWS_REGION", "'eu-west'", "should be an AWS region, or localstack"),
        ({"EMAIL_ENDPOINT_URL": "localhost:4566"}, "EMAIL_ENDPOINT_URL", "'localhost:4566'", "should be 'http'"),
        ({"AWS_ENDPOINT_URL": "nowhere"}, "AWS_ENDPOINT_URL", "'nowhere'", "should be a valid URL"),
        ({"EMAIL_STAGE": "Prod!"}, "EMAIL_STAGE", "'Prod!'", "should be at most 40 lower-case letters, digits"),
        ({"EMAIL_STAGE": "s" * 41}, "EMAIL_STAGE", repr("s" * 41), "should be at most 40 lower-case letters, digits"),
        ({"EMAIL_QUEUE_URL": "mail"}, "EMAIL_QUEUE_URL", "'mail'", "should be a valid URL"),
        ({"QUEUE_URL": "http://localhost/"}, "QUEUE_URL", "'http://localhost/'", "should end in /<account>/"),
        (
            {"EMAIL_QUEUE_URL": f"http://localhost/1/{'q' * 71}"},
            "EMAIL_QUEUE_URL",
            f"'http://localhost/1/{'q' * 71}'",
            "at most 66 letters",
        ),
        ({"DYNAMO_TABLE": "t!"}, "DYNAMO_TABLE", "'t!'", "should be 3 to 248 letters, digits"),
        ({"EMAIL_PROVIDER": "smtp,S M"}, "EMAIL_PROVIDER[1]", "'S M'", "should be the provider that sends, like smtp"),
        (
            {"EMAIL_ATTACHMENT_PREFIXES": "s3://bucket/mail/,s3://bucket/a"},
            "EMAIL_ATTACHMENT_PREFIXES[1]",
            "'s3://bucket/a'",
            "each ends in a /",
        ),
        (
            {"EMAIL_ATTACHMENT_PREFIXES": "s3://bucket/", "EMAIL_CLAIM_LEASE": "79"},
            "EMAIL_ATTACHMENT_PREFIXES",
            "'s3://bucket/'",
            "needs EMAIL_CLAIM_LEASE (79) to be at least 80",
        ),
        ({"EMAIL_PROVIDER_TIMEOUT": "soon"}, "EMAIL_PROVIDER_TIMEOUT", "'soon'", "should be a valid number"),
        ({"EMAIL_PROVIDER_TIMEOUT": "0.5"}, "EMAIL_PROVIDER_TIMEOUT", "'0.5'", "should be greater than or equal to 1"),
        ({"EMAIL_CLAIM_LEASE": "nan"}, "EMAIL_CLAIM_LEASE", "'nan'", "should be less than or equal to 43200"),
        ({"EMAIL_MAX_ATTEMPTS": "0"}, "EMAIL_MAX_ATTEMPTS", "'0'", "should be greater than or equal to 1"),
        ({"EMAIL_RETRY_DELAY": "0"}, "EMAIL_RETRY_DELAY", "'0'", "should be greater than 0"),
        ({"EMAIL_RETRY_DELAY_MAX": "inf"}, "EMAIL_RETRY_DELAY_MAX", "'inf'", "should be less than or equal to 86400"),
        ({"EMAIL_MISSING_ROW_WAIT": "-1"}, "EMAIL_MISSING_ROW_WAIT", "'-1'", "should be greater than or equal to 0"),
        ({"EMAIL_CONCURRENCY": "1.5"}, "EMAIL_CONCURRENCY", "'1.5'", "should be a valid integer"),
        ({"EMAIL_VISIBILITY_TIMEOUT": "43201"}, "EMAIL_VISIBILITY_TIMEOUT", "'43201'", "should be less than or equal"),
    ],
    ids=lambda parameter: ",".join(parameter) if isinstance(parameter, dict) else "",
    indirect=["complaint"],
)
def test_a_wrong_value_is_one_line_with_the_name_the_value_and_what_would_be_right(
    complaint: list[str], name: str, value: str, right: str
) -> None:
    (line,) = complaint
    names, _, rest = line.partition(": is ")
    assert name in names.split(" or ")
    assert rest.startswith(f"{value}; ")
    assert right in rest


@pytest.mark.parametrize(
    ("complaint", "start", "right"),
    [
        ({"EMAIL_CLAIM_LEASE": "59"}, "EMAIL_CLAIM_LEASE: is '59'; ", "twice EMAIL_PROVIDER_TIMEOUT (30)"),
        ({"EMAIL_PROVIDER_TIMEOUT": "61"}, "EMAIL_CLAIM_LEASE: is 120; ", "twice EMAIL_PROVIDER_TIMEOUT (61)"),
        ({"EMAIL_RETRY_DELAY_MAX": "4"}, "EMAIL_RETRY_DELAY_MAX: is '4'; ", "at least EMAIL_RETRY_DELAY (5)"),
        (
            {"EMAIL_QUEUE_URL": EU_QUEUE, "EMAIL_REGION": "us-east-1"},
            f"EMAIL_QUEUE_URL or QUEUE_URL: is '{EU_QUEUE}'; ",
            "should be in EMAIL_REGION (us-east-1)",
        ),
        (
            {"EMAIL_QUEUE_URL": EU_QUEUE},
            f"EMAIL_QUEUE_URL or QUEUE_URL: is '{EU_QUEUE}'; ",
            "should be in EMAIL_REGION (localstack)",
        ),
    ],
    ids=["lease", "timeout", "delays", "regions", "local"],
    indirect=["complaint"],
)
def test_values_that_contradict_each_other_are_one_line_that_names_both(
    complaint: list[str], start: str, right: str
) -> None:
    (line,) = complaint
    assert line.startswith(start)
    assert right in line


SECRET = "s3cr3t"
URLS_WITH_A_PASSWORD = [
    f"http://user:{SECRET}@localhost:4566",
    f"https://{SECRET}@example.com",
    f"http://:{SECRET}@localhost",
    f"smtp://user:{SECRET}@mx.example.com:587",
    f"user:{SECRET}@mx.example.com",
    f"http://user:{SECRET}@@localhost/no host",
    f"http://user:a/{SECRET}@localhost",
    f"user\n{SECRET}@localhost",
]


@pytest.mark.parametrize(
    "name", sorted({variable(field) for field in Settings.model_fields} | {"AWS_ENDPOINT_URL", "QUEUE_URL"})
)
def test_no_setting_says_a_password_in_a_url(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for url in URLS_WITH_A_PASSWORD:
        monkeypatch.setenv(name, url)
        get_settings.cache_clear()
        try:
            said = str(get_settings())
        except SettingsError as error:
            said = str(error)
        assert SECRET not in said, url


def test_an_error_that_escapes_has_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_ENDPOINT_URL", URLS_WITH_A_PASSWORD[0])
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("url", [f"http://user:{SECRET}@localhost:4566", f"http://{SECRET}@localhost:4566"])
def test_an_endpoint_has_no_user_and_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("EMAIL_ENDPOINT_URL", url)
    with pytest.raises(SettingsError) as raised:
        get_settings()
    assert str(raised.value) == (
        "EMAIL_ENDPOINT_URL or AWS_ENDPOINT_URL: is '…@localhost:4566'; should have no user name or password: "
        "credentials come from the environment or the machine's role (an endpoint other than the region's own)"
    )


def test_values_that_just_agree_pass() -> None:
    Settings(provider_timeout=60, claim_lease=120, retry_delay=9, retry_delay_max=9)
    assert Settings(queue_url=HttpUrl(EU_QUEUE), region="eu-west-1").queue == "shop-mail"
    china = "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/mail"
    assert Settings(queue_url=HttpUrl(china), region="cn-north-1").queue == "mail"


@pytest.mark.parametrize(
    "complaint",
    [
        {
            "EMAIL_REGION": "mars",
            "QUEUE_URL": EU_QUEUE,  # its region cannot be checked, because EMAIL_REGION is not a region
            "EMAIL_STAGE": "Prod!",
            "EMAIL_CLAIM_LEASE": "1.5",
            "EMAIL_PROVIDER_TIMEOUT": "700",
            "EMAIL_RETRY_DELAY": "800",
            "EMAIL_RETRY_DELAY_MAX": "700",
            "EMAIL_CONCURRENCY": "many",
        }
    ],
    indirect=True,
)
def test_everything_that_is_wrong_is_said_at_once(complaint: list[str]) -> None:
    assert [line.partition(":")[0] for line in complaint] == [
        "EMAIL_REGION or AWS_REGION",
        "EMAIL_STAGE",
        "EMAIL_CLAIM_LEASE",
        "EMAIL_RETRY_DELAY_MAX",
        "EMAIL_CONCURRENCY",
    ]


@pytest.mark.parametrize("complaint", [{"EMAIL_STAGE": "Prod!", "EMAIL_CLAIM_LEASE": "59"}], indirect=True)
def test_a_wrong_value_hides_no_contradiction_of_others(complaint: list[str]) -> None:
    assert [line.partition(":")[0] for line in complaint] == ["EMAIL_STAGE", "EMAIL_CLAIM_LEASE"]


def test_a_wrong_setting_unhandled_is_exit_code_1_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_STAGE", "Prod!")
    with pytest.raises(SystemExit) as raised:
        get_settings()
    assert isinstance(raised.value.code, str), "Python prints it, and exits with 1"
    assert raised.value.__suppress_context__


def test_the_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    before = get_settings()
    monkeypatch.setenv("EMAIL_STAGE", "other")
    assert get_settings() is before
    get_settings.cache_clear()
    assert get_settings().stage == "other"


def test_the_settings_in_one_line_say_where_the_work_is() -> None:
    assert str(Settings(region="eu-west-1", stage="prod")) == (
        "region=eu-west-1 endpoint=aws queue=emails_prod table=emails_prod provider=stub"
    )
    assert "endpoint=http://localhost:4566" in str(Settings())


def test_the_folders_whose_files_may_be_attached_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_ATTACHMENT_PREFIXES", "s3://bucket/mail/, s3://a.b-2/")
    assert Settings().attachment_prefixes == ("s3://bucket/mail/", "s3://a.b-2/")


@pytest.mark.parametrize(
    "prefix",
    ["bucket/", "s3://bucket", "s3://bucket/mail", "https://bucket/mail/", "s3:///", "s3://B/", "s3://bucket/a/,"],
)
def test_a_folder_that_others_begin_like_is_none(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("EMAIL_ATTACHMENT_PREFIXES", prefix)
    with pytest.raises(SettingsError, match="each ends in a /"):
        get_settings()


@pytest.mark.parametrize(
    "address", ["nobody", "Me <me@example.com>", "me@example.com,you@example.com", "ä@example.com"]
)
def test_a_wrong_redirect_address_is_refused_without_quoting_it(address: str) -> None:
    with pytest.raises(SettingsError, match="EMAIL_REDIRECT_TO: should be an ASCII address") as error:
        Settings.read(redirect_to=address)
    assert address not in str(error.value)


def test_the_settings_in_one_line_say_that_emails_are_redirected_without_the_address() -> None:
    settings = Settings.read(redirect_to="me@example.com")
    assert "EMAIL_REDIRECT_TO is set" in str(settings)
    assert "me@example.com" not in f"{settings}{settings!r}"
    assert "EMAIL_REDIRECT_TO" not in str(Settings.read())
