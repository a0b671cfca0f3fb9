"""The secrets of the services' webhooks. A service is accepted only if its secret is set.

Most fields have the name that django-anymail gives them. Several secrets, with commas between them, are all valid,
so that a secret can be replaced without a gap.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, SecretStr, ValidationInfo, field_validator

from settings import EnvironmentSettings


def split(value: SecretStr | None) -> tuple[str, ...]:
    return tuple(secret.strip() for secret in value.get_secret_value().split(",")) if value else ()


def _each(value: SecretStr, pattern: str, should: str) -> SecretStr:
    if not all(re.fullmatch(pattern, secret) for secret in split(value)):
        raise ValueError(should)
    return value


def _is_key(value: SecretStr) -> SecretStr:
    return _each(value, r"[!-+\--~]{8,}", "should be keys of at least 8 ASCII characters without spaces")


def _is_login(value: SecretStr) -> SecretStr:
    return _each(
        value,
        r"[!-+\--9;-~]+:[!-+\--~]{16,}",
        "should be like user:password, in ASCII without spaces; the password has at least 16 characters",
    )


def _is_base64(value: SecretStr) -> SecretStr:
    try:
        decoded = [base64.b64decode(secret.removeprefix("whsec_"), validate=True) for secret in split(value)]
    except binascii.Error:
        decoded = [b""]
    if not all(decoded):
        raise ValueError("should be in base64")
    return value


Login = Annotated[SecretStr | None, AfterValidator(lambda value: value and _is_login(value))]
Key = Annotated[SecretStr | None, AfterValidator(lambda value: value and _is_key(value))]
Base64 = Annotated[SecretStr | None, AfterValidator(lambda value: value and _is_base64(value))]


def _field(description: str) -> SecretStr | None:
    field: SecretStr | None = Field(default=None, repr=False, description=description)
    return field


def _login(title: str) -> SecretStr | None:
    return _field(f"user:password, which you also write into the URL of the webhook in {title}")


class WebhookSettings(EnvironmentSettings):
    brevo_webhook_secret: Login = _login("Brevo")
    mailersend_signing_secret: Key = _field("the signing secret of the webhook in MailerSend")
    mailgun_webhook_signing_key: Key = _field("the HTTP webhook signing key of Mailgun")
    mailjet_webhook_secret: Login = _login("Mailjet")
    mailtrap_tracking_secret: Key = _field("the signature secret of the webhook in Mailtrap")
    mandrill_webhook_key: Key = _field("the key of the webhook in Mandrill")
    mandrill_webhook_url: HttpUrl | None = Field(
        default=None,
        validate_default=True,
        repr=False,
        description="the URL of the webhook exactly as Mandrill has it, because Mandrill signs it",
    )
    postal_webhook_key: Base64 = _field("the public key of Postal, p= of its DKIM record")
    postmark_webhook_secret: Login = _login("Postmark")
    resend_signing_secret: Base64 = _field("the signing secret of the webhook in Resend, which begins with whsec_")
    sendgrid_tracking_webhook_verification_key: Base64 = _field("the verification key of SendGrid's event webhook")
    sparkpost_webhook_secret: Login = _login("SparkPost")
    unisender_go_webhook_key: Key = _field("the API key of the project whose webhook it is")

    @field_validator("mandrill_webhook_url")
    @classmethod
    def _is_there_for_its_key(cls, url: HttpUrl | None, info: ValidationInfo) -> HttpUrl | None:
        if url is None and info.data.get("mandrill_webhook_key"):
            raise ValueError("is missing, and EMAIL_MANDRILL_WEBHOOK_KEY needs it")
        return url
