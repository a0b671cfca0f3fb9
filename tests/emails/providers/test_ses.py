"""Amazon SES: the requests it gets, and what each of its answers means."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import default
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import HttpUrl

from emails.email import Email
from emails.encoded_id import encoded_id
from emails.events import RejectReason
from emails.providers.contract import PermanentError, TemporaryError, UnknownResultError
from emails.providers.ses import ANSWERS, SesProvider, SesSettings
from settings import Settings
from settings.aws import client
from tests.support.api_server import running
from tests.support.ses_server import SesServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from emails.providers.contract import SendError

SECRET = "Address ada@example.com"  # AWS's error texts quote it


@pytest.fixture
def server(emulator: str) -> Iterator[SesServer]:
    """Return an SES server at which the sender is verified."""
    settings = Settings(endpoint_url=HttpUrl(emulator))
    ses = client("sesv2", settings, read_timeout=10, attempts=1)
    if "example.com" not in {found["IdentityName"] for found in ses.list_email_identities()["EmailIdentities"]}:
        ses.create_email_identity(EmailIdentity="example.com")
    with running(SesServer(emulator)) as server:
        yield server


@pytest.fixture
def provider(server: SesServer, set_environment: Callable[..., None]) -> Callable[..., SesProvider]:
    def provide(**own: str) -> SesProvider:
        set_environment(SesSettings(**own))
        return SesProvider.from_settings(Settings(endpoint_url=HttpUrl(server.url)))

    return provide


def test_the_message_goes_as_it_is_to_every_recipient_with_tags_and_set_and_list(
    server: SesServer, provider: Callable[..., SesProvider], row: dict[str, Any]
) -> None:
    row |= {
        "RecipientsTo": ["Ada <ada@example.com>"],
        "RecipientsCc": ["bob@example.com"],
        "RecipientsBcc": ["eve@example.com"],
        "Tags": {"team": "orders"},
    }
    email = Email.from_row(row)
    receipt = provider(ses_configuration_set="emails", ses_contact_list="news/offers").send(email)
    (request,) = server.requests
    assert request["Destination"] == {
        "ToAddresses": ["ada@example.com"],
        "CcAddresses": ["bob@example.com"],
        "BccAddresses": ["eve@example.com"],
    }
    assert request["ConfigurationSetName"] == "emails"
    assert request["ListManagementOptions"] == {"ContactListName": "news", "TopicName": "offers"}
    assert request["EmailTags"] == [
        {"Name": "team", "Value": "orders"},
        {"Name": "email_id", "Value": encoded_id(email.id)},
    ]
    (message,) = server.messages()
    assert b"eve@example.com" not in message
    assert message_from_bytes(message, policy=default)["X-Email-Id"] == encoded_id(email.id)
    assert receipt.provider == "ses"
    assert receipt.message_id.endswith("@email.amazonses.com")


def test_a_recipient_who_is_listed_twice_counts_once(
    server: SesServer, provider: Callable[..., SesProvider], row: dict[str, Any]
) -> None:
    addresses = [f"a{number}@example.com" for number in range(30)]
    email = Email.from_row(row | {"RecipientsTo": addresses, "RecipientsCc": [*addresses, "cc@example.com"]})
    provider().send(email)
    (request,) = server.requests
    assert request["Destination"] == {
        "ToAddresses": addresses,
        "CcAddresses": ["cc@example.com"],
        "BccAddresses": [],
    }


def test_without_set_and_list_none_is_named(
    server: SesServer, provider: Callable[..., SesProvider], row: dict[str, Any]
) -> None:
    provider().send(Email.from_row(row))
    (request,) = server.requests
    assert set(request) == {"Content", "Destination", "EmailTags"}


def test_the_account_s_own_send_rate_is_asked(provider: Callable[..., SesProvider]) -> None:
    assert provider().max_send_rate() == 14


def test_where_ses_does_not_tell_its_rate_there_is_none_and_the_log_says_so(
    free_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert SesProvider.from_settings(Settings(endpoint_url=HttpUrl(free_endpoint))).max_send_rate() is None
    assert "the send rate is not limited: SES did not return its quota" in caplog.text


def test_every_error_of_botocore_s_model_has_an_answer() -> None:
    model = client("sesv2", Settings(), read_timeout=1, attempts=1).meta.service_model
    errors = {shape.name for shape in model.operation_model("SendEmail").error_shapes}
    assert len(errors) == 8
    assert errors <= set(ANSWERS)


TEMPORARY = [
    (429, "TooManyRequestsException", "Too many requests", 1),
    (400, "ThrottlingException", "Maximum sending rate exceeded.", 1),
    (400, "ThrottlingException", "Daily message quota exceeded.", 3600),
    (429, "TooManyRequestsException", "Daily message quota exceeded.", 3600),
    (400, "LimitExceededException", "There are too many instances of the specified resource type.", 900),
    (400, "SendingPausedException", "Email sending is disabled for this account.", 900),
    (404, "NotFoundException", "Configuration set <emails> does not exist.", 900),
    (403, "AccessDeniedException", f"not authorized to perform ses:SendRawEmail on {SECRET}", 900),
    (403, "ExpiredTokenException", "The security token included in the request is expired", 900),
    (400, "NewIn2027Exception", SECRET, 900),
]
PERMANENT = [
    (400, "MessageRejected", f"Email address is not verified. {SECRET}", RejectReason.BLOCKED),
    (400, "MessageRejected", f"{SECRET} is on the suppression list for your account", RejectReason.BLOCKED),
    (400, "MessageRejected", "The message contains a virus.", RejectReason.OTHER),
    (400, "MailFromDomainNotVerifiedException", "Mail-From domain is not verified.", RejectReason.BLOCKED),
    (400, "AccountSuspendedException", "The account is suspended.", RejectReason.BLOCKED),
    (400, "BadRequestException", f"Illegal address: {SECRET}", RejectReason.INVALID),
    (413, "RequestEntityTooLargeException", "Too large", RejectReason.OTHER),
]


@pytest.mark.parametrize(("status", "code", "text", "retry_after"), TEMPORARY)
def test_what_is_temporary_says_when_to_come_again(  # noqa: PLR0913, PLR0917 (SES's answer has three parts)
    server: SesServer,
    provider: Callable[..., SesProvider],
    row: dict[str, Any],
    status: int,
    code: str,
    text: str,
    retry_after: float,
) -> None:
    server.error = (status, code, text)
    with pytest.raises(TemporaryError) as raised:
        provider().send(Email.from_row(row))
    assert raised.value.retry_after == retry_after
    assert code in str(raised.value)
    assert SECRET not in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "code", "text", "reason"), PERMANENT)
def test_what_is_permanent_says_why(  # noqa: PLR0913, PLR0917 (SES's answer has three parts)
    server: SesServer,
    provider: Callable[..., SesProvider],
    row: dict[str, Any],
    status: int,
    code: str,
    text: str,
    reason: RejectReason,
) -> None:
    server.error = (status, code, text)
    with pytest.raises(PermanentError) as raised:
        provider().send(Email.from_row(row))
    assert raised.value.reject_reason == reason
    assert code in str(raised.value)
    assert SECRET not in str(raised.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_s_error_tells_nothing_of_what_was_accepted(
    server: SesServer, provider: Callable[..., SesProvider], row: dict[str, Any], status: int
) -> None:
    server.error = (status, "InternalFailure", SECRET)
    with pytest.raises(UnknownResultError, match=rf"^SES answered {status} \(InternalFailure\)$"):
        provider().send(Email.from_row(row))
    assert len(server.requests) == 1, "botocore resends by itself otherwise"


@pytest.mark.parametrize(("status", "error"), [(400, TemporaryError), (500, UnknownResultError)])
def test_a_code_that_is_none_is_not_repeated(
    server: SesServer, provider: Callable[..., SesProvider], row: dict[str, Any], status: int, error: type[SendError]
) -> None:
    server.error = (status, SECRET, "")
    with pytest.raises(error, match=r"^SES answered (with an unknown error|500 \(an unknown error\))$"):
        provider().send(Email.from_row(row))


def test_a_sender_that_is_not_verified_is_told_by_the_emulator_too(
    provider: Callable[..., SesProvider], row: dict[str, Any]
) -> None:
    row["Sender"] = "nobody@unverified.example"
    with pytest.raises(PermanentError, match="an identity is not verified in SES"):
        provider().send(Email.from_row(row))


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"RecipientsTo": [f"a{number}@example.com" for number in range(51)]}, "51 recipients; SES accepts at most 50"),
        ({"RecipientsCc": ["\u00e4da@example.com"]}, "an address is not ASCII before the @"),
        ({"Tags": {"a team": "x"}}, "a tag's name or value is not 1 to 256 letters"),
        ({"Tags": {"team": "x" * 257}}, "a tag's name or value is not 1 to 256 letters"),
    ],
)
def test_what_ses_would_refuse_stays_here(
    server: SesServer, provider: Callable[..., SesProvider], row: dict[str, Any], attributes: dict[str, Any], why: str
) -> None:
    with pytest.raises(PermanentError, match=why):
        provider().send(Email.from_row(row | attributes))
    assert server.requests == []


def test_a_recipient_whom_ses_cannot_name_is_told_by_name(
    provider: Callable[..., SesProvider], row: dict[str, Any]
) -> None:
    row["RecipientsTo"] = ["ada@example.com", "\u00e4da@example.com"]
    with pytest.raises(PermanentError) as raised:
        provider().send(Email.from_row(row))
    assert [recipient.address for recipient in raised.value.refused] == ["\u00e4da@example.com"]
