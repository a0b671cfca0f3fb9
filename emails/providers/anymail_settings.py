"""The settings of the services behind django-anymail. They have the names that anymail gives them.

A field without a default must be set if the service is used. A field that has anymail's default says so.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, SecretStr

from settings import EnvironmentSettings

DOMAIN = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{1,62}$"
WORD = r"^[A-Za-z0-9_-]{1,100}$"


def _is_a_token(secret: SecretStr) -> SecretStr:
    if not re.fullmatch("[!-~]+", secret.get_secret_value()):
        raise ValueError("should be ASCII without spaces or line breaks")
    return secret


def _is_safe(url: HttpUrl) -> HttpUrl:
    if url.username is not None or url.password is not None:
        raise ValueError("should have no user name or password")
    if url.scheme != "https" and url.host not in ("localhost", "127.0.0.1", "[::1]"):
        raise ValueError("should begin with https, because the key would be sent in clear text")
    return url


def secret(description: str) -> SecretStr:
    """Return a required field for a secret."""
    field: SecretStr = Field(repr=False, description=description)
    return field


Secret = Annotated[SecretStr, AfterValidator(_is_a_token)]
ApiUrl = Annotated[HttpUrl, AfterValidator(_is_safe)]
API_URL = Field(default=None, description="the address of the API, if it is not the usual one")


class BrevoSettings(EnvironmentSettings):
    brevo_api_key: Secret = secret("an API key of Brevo, which begins with xkeysib-")
    brevo_api_url: ApiUrl | None = API_URL


class MailerSendSettings(EnvironmentSettings):
    mailersend_api_token: Secret = secret("an API token of MailerSend with the permission to send")
    mailersend_api_url: ApiUrl | None = API_URL


class MailgunSettings(EnvironmentSettings):
    mailgun_api_key: Secret = secret("an API key of Mailgun")
    mailgun_sender_domain: str | None = Field(
        default=None, pattern=DOMAIN, description="the domain in Mailgun, if it is not that of the email's Sender"
    )
    mailgun_api_url: ApiUrl | None = Field(
        default=None, description="the address of the API, for the EU https://api.eu.mailgun.net/v3"
    )


class MailjetSettings(EnvironmentSettings):
    mailjet_api_key: Secret = secret("the public API key of Mailjet")
    mailjet_secret_key: Secret = secret("the secret key that belongs to EMAIL_MAILJET_API_KEY")
    mailjet_api_url: ApiUrl | None = API_URL


class MailtrapSettings(EnvironmentSettings):
    mailtrap_api_token: Secret = secret("an API token of Mailtrap")
    mailtrap_sandbox_id: int | None = Field(
        default=None, ge=1, description="the number of a Mailtrap sandbox, which shows emails and delivers none"
    )
    mailtrap_api_url: ApiUrl | None = API_URL


class MandrillSettings(EnvironmentSettings):
    mandrill_api_key: Secret = secret("an API key of Mailchimp Transactional (Mandrill)")
    mandrill_api_url: ApiUrl | None = API_URL


class PostalSettings(EnvironmentSettings):
    postal_api_key: Secret = secret("the API key of a mail server in Postal")
    postal_api_url: ApiUrl = Field(description="the address of your Postal, like https://postal.example.com")


class PostmarkSettings(EnvironmentSettings):
    postmark_server_token: Secret = secret("the API token of a server in Postmark")
    postmark_message_stream: str | None = Field(
        default=None, pattern=WORD, description="the id of a message stream of that server, if not outbound"
    )
    postmark_api_url: ApiUrl | None = API_URL


class ResendSettings(EnvironmentSettings):
    resend_api_key: Secret = secret("an API key of Resend, which begins with re_")
    resend_api_url: ApiUrl | None = API_URL


class ScalewaySettings(EnvironmentSettings):
    scaleway_secret_key: Secret = secret("the secret key of an API key of Scaleway")
    scaleway_project_id: str = Field(
        pattern=r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$", description="a project's id, a UUID"
    )
    scaleway_region: str | None = Field(
        default=None, pattern=r"^[a-z]{2}-[a-z]{3}$", description="a region of Scaleway; by default fr-par"
    )
    scaleway_api_url: ApiUrl | None = API_URL


class SendGridSettings(EnvironmentSettings):
    sendgrid_api_key: Secret = secret("an API key of SendGrid, which begins with SG.")
    sendgrid_api_url: ApiUrl | None = Field(
        default=None, description="the address of the API, for the EU https://api.eu.sendgrid.com/v3"
    )


class SparkPostSettings(EnvironmentSettings):
    sparkpost_api_key: Secret = secret("an API key of SparkPost with the permission `Transmissions: Read/Write`")
    sparkpost_subaccount: int | None = Field(default=None, ge=0, description="the number of a subaccount of SparkPost")
    sparkpost_api_url: ApiUrl | None = Field(
        default=None, description="the address of the API, for the EU https://api.eu.sparkpost.com/api/v1"
    )


class UnisenderGoSettings(EnvironmentSettings):
    unisender_go_api_key: Secret = secret("an API key of Unisender Go")
    unisender_go_api_url: ApiUrl = Field(
        description="the address of the API, like https://go1.unisender.ru/en/transactional/api/v1"
    )
