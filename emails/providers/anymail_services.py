"""The services that django-anymail sends through: what each one can carry, and what its error codes mean.

This module needs nothing of the extra `anymail`, so that the settings of these services are always known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emails.events import RejectReason
from emails.providers import anymail_settings as own
from emails.providers.contract import Answer
from settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emails.providers.anymail import AnymailProvider
    from settings import EnvironmentSettings, Settings

INSTALL = "uv sync --extra anymail"

SECOND, QUARTER_HOUR, HOUR = 1, 900, 3600
MB = 1_000_000

# What a status means unless the service documents something else (RFC 9110, section 15). Every other 5xx is unknown.
# Every other 4xx is not accepted, but may not be the email's fault. Redirects are not followed, so they are the same.
STATUSES: Mapping[int, Answer] = {
    400: Answer("found the request invalid", RejectReason.INVALID),
    401: Answer("refused the credentials", None, QUARTER_HOUR),
    402: Answer("asks for a payment", None, QUARTER_HOUR),
    403: Answer("does not allow the request", None, QUARTER_HOUR),
    404: Answer("knows no such address of its API", None, QUARTER_HOUR),
    408: Answer("did not get the whole request in time"),
    413: Answer("found the email too large", RejectReason.OTHER),
    415: Answer("found the request invalid", RejectReason.INVALID),
    422: Answer("found the request invalid", RejectReason.INVALID),
    425: Answer("wants the request again later", None, SECOND),
    429: Answer("throttled the request", None, SECOND),
}
NOT_FOLLOWED = {301, 302, 307, 308}

NOT_VERIFIED = Answer("has not verified the sender", RejectReason.BLOCKED)
NO_CREDIT = Answer("has no credit left for the account", None, QUARTER_HOUR)
NOT_APPROVED = Answer("does not let the account send", None, QUARTER_HOUR)
WRONG_KEY = Answer("refused the credentials", None, QUARTER_HOUR)
QUOTA = Answer("has no quota left for the account", None, HOUR)
INVALID = Answer("found the request invalid", RejectReason.INVALID)


@dataclass(frozen=True)
class Service:
    """One service. Its name is that of anymail's module, and of EMAIL_PROVIDER and SendVia."""

    name: str
    title: str
    settings: type[EnvironmentSettings]
    max_message_bytes: int | None = None  # with the files in base64, if the service documents a limit
    # The places in an error's JSON that may hold a code, and what the codes mean. A code may follow a status.
    codes_at: tuple[tuple[str | int, ...], ...] = ()
    codes: Mapping[str, Answer] = field(default_factory=dict)
    statuses: Mapping[int, Answer] = field(default_factory=dict)  # what a status without such a code means
    refuses_recipients_with: int | None = None  # the error status whose answer names recipients

    has_metadata: bool = True  # names and values that callbacks bring back; if not, a tag brings the id back
    longest_id: int | None = None  # characters of the encoded id, if the service documents a limit
    metadata_header: str = ""  # if the metadata travels in a header of the message
    has_headers: bool = True  # if not, the account's plan decides whether custom headers are allowed
    needs_to: bool = False  # the API refuses an email that has only Cc or Bcc
    guesses_types: bool = False  # the API takes an attachment's type from its name
    drops_parameters: bool = False  # the API takes an attachment's type without its parameters

    def provider(self, settings: Settings) -> AnymailProvider:
        """Return the provider, as the entry point of this service.

        Raises:
            SettingsError: a setting is missing or wrong, or the extra `anymail` is not installed.
        """
        try:
            from emails.providers.anymail import AnymailProvider  # noqa: PLC0415 (an extra, and slow to import)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("anymail", "django", "requests", "urllib3"):
                raise
            raise SettingsError(
                f"EMAIL_PROVIDER or EMAIL_SEND_VIA: {self.name} needs the extra `anymail`, which is not installed: "
                f"{INSTALL}"
            ) from None
        return AnymailProvider(self, settings, self.settings.read())


BREVO = Service(
    "brevo",
    "Brevo",
    own.BrevoSettings,
    max_message_bytes=20 * MB,  # Brevo's help, "Add an attachment to a transactional email"
    codes_at=(("code",),),
    codes={  # Brevo's API reference, "Error codes"
        "not_enough_credits": NO_CREDIT,
        "permission_denied": NOT_APPROVED,
        "account_under_validation": NOT_APPROVED,
        "unauthorized": WRONG_KEY,
    },
    metadata_header="X-Mailin-custom",
    needs_to=True,
    guesses_types=True,
)
MAILERSEND = Service(
    "mailersend",
    "MailerSend",
    own.MailerSendSettings,
    has_metadata=False,
    longest_id=191,  # MailerSend's API reference, "Send an email": tags.*
    has_headers=False,  # the same: "available to Enterprise accounts only"
    needs_to=True,
    guesses_types=True,
)
MAILGUN = Service(
    "mailgun",
    "Mailgun",
    own.MailgunSettings,
    max_message_bytes=25 * MB,  # Mailgun's API reference, "Messages"
    statuses={404: Answer("does not know the sender's domain, or EMAIL_MAILGUN_API_URL is wrong", None, QUARTER_HOUR)},
    needs_to=True,
)
MAILJET = Service(
    "mailjet",
    "Mailjet",
    own.MailjetSettings,
    codes_at=(("ErrorCode",), ("Messages", 0, "Errors", 0, "ErrorCode")),
    codes={"send-0008": NOT_VERIFIED},  # Mailjet's guide, "Send API errors"
    needs_to=True,
    drops_parameters=True,
)
MAILTRAP = Service("mailtrap", "Mailtrap", own.MailtrapSettings)
MANDRILL = Service(
    "mandrill",
    "Mandrill",
    own.MandrillSettings,
    codes_at=(("name",),),
    codes={  # the API reference of messages/send, "Errors", which come with the status 500
        "Invalid_Key": WRONG_KEY,
        "PaymentRequired": NO_CREDIT,
        "PoorReputation": NOT_APPROVED,
        "ServiceUnavailable": Answer("is down for maintenance"),
        "Unknown_Subaccount": NOT_APPROVED,
        "ValidationError": INVALID,
    },
)
POSTAL = Service(
    "postal",
    "Postal",
    own.PostalSettings,
    # Errors come with the status 200. "parameter-error" has no code.
    codes_at=(("data", "code"), ("status",)),
    codes={  # Postal's API documentation, "Send a message"
        "AccessDenied": WRONG_KEY,
        "InvalidServerAPIKey": WRONG_KEY,
        "ServerSuspended": NOT_APPROVED,
        "UnauthenticatedFromAddress": NOT_VERIFIED,
        "parameter-error": INVALID,
        **dict.fromkeys(
            (
                *("AttachmentMissingData", "AttachmentMissingName", "FromAddressMissing", "NoContent", "NoRecipients"),
                *("TooManyBCCAddresses", "TooManyCCAddresses", "TooManyToAddresses", "ValidationError"),
            ),
            INVALID,
        ),
    },
    has_metadata=False,
)
POSTMARK = Service(
    "postmark",
    "Postmark",
    own.PostmarkSettings,
    max_message_bytes=10 * MB,  # Postmark's support center, "What are the attachment and email size limits?"
    codes_at=(("ErrorCode",),),
    codes={  # Postmark's API overview, "API error codes"
        "10": WRONG_KEY,
        "100": Answer("is down for maintenance"),
        "400": NOT_VERIFIED,
        "401": NOT_VERIFIED,
        "405": NO_CREDIT,
        "406": Answer("has every recipient on its suppression list", RejectReason.BLOCKED),
        "411": Answer("does not take a type of attachment", RejectReason.OTHER),
        "412": NOT_APPROVED,
        "413": NOT_APPROVED,
        "429": STATUSES[429],
    },
    refuses_recipients_with=422,
    longest_id=80,  # Postmark's support center, "Custom metadata FAQ"
)
RESEND = Service(
    "resend",
    "Resend",
    own.ResendSettings,
    max_message_bytes=40 * MB,  # Resend's API reference, "Send email": attachments
    codes_at=(("name",),),
    codes={  # Resend's API reference, "Errors"
        "403 validation_error": NOT_VERIFIED,
        "daily_quota_exceeded": QUOTA,
        "monthly_quota_exceeded": QUOTA,
        "security_error": Answer("found the email dangerous", RejectReason.BLOCKED),
    },
    metadata_header="X-Metadata",
    needs_to=True,
)
SCALEWAY = Service(
    "scaleway",
    "Scaleway",
    own.ScalewaySettings,
    codes_at=(("type",),),
    codes={"quotas_exceeded": QUOTA},  # Scaleway's developer documentation, "Errors"
    metadata_header="X-Metadata",
)
SENDGRID = Service(
    "sendgrid",
    "SendGrid",
    own.SendGridSettings,
    max_message_bytes=30 * MB,  # SendGrid's API reference, "Mail Send": limitations
    codes_at=(("errors", 0, "field"),),
    codes={"403 from": NOT_VERIFIED},  # SendGrid's documentation, "Sender identity"
    needs_to=True,
)
SPARKPOST = Service(
    "sparkpost",
    "SparkPost",
    own.SparkPostSettings,
    codes_at=(("errors", 0, "code"),),
    codes={"7001": NOT_VERIFIED},
    statuses={420: QUOTA},  # SparkPost's API reference, "Errors" and "Transmissions"
)
UNISENDER_GO = Service("unisender_go", "Unisender Go", own.UnisenderGoSettings)

SERVICES = {
    service.name: service
    for service in (
        *(BREVO, MAILERSEND, MAILGUN, MAILJET, MAILTRAP, MANDRILL, POSTAL, POSTMARK, RESEND, SCALEWAY, SENDGRID),
        *(SPARKPOST, UNISENDER_GO),
    )
}
