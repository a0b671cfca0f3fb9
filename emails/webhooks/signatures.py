"""The services' own ways to sign a webhook. A scheme raises NotVerified unless one of the secrets fits.

django-anymail's views verify too, but only within a Django project, and with one secret. All secrets are compared, and
in constant time, so that neither the secrets nor which of them fits can be learned from the time that it takes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from emails.webhooks.request import NotVerified
from emails.webhooks.settings import split
from settings import SettingsError
from settings.environment import variable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emails.webhooks.request import WebhookRequest
    from emails.webhooks.settings import WebhookSettings

    Verify = Callable[[WebhookRequest, Sequence[str], float], None]

TOLERANCE_SECONDS = 300


def _check(given: str | bytes, expected: Sequence[str | bytes]) -> None:
    if not any([hmac.compare_digest(_bytes(given), _bytes(one)) for one in expected]):  # noqa: C419 (no early end)
        raise NotVerified


def _bytes(value: str | bytes) -> bytes:
    return value.encode(errors="surrogatepass") if isinstance(value, str) else value


def _header(request: WebhookRequest, name: str) -> str:
    try:
        return request.headers[name]
    except KeyError:
        raise NotVerified from None


def _json(request: WebhookRequest) -> Any:
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        raise NotVerified from None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NotVerified from None


def basic(request: WebhookRequest, secrets: Sequence[str], _now: float) -> None:
    """Check user and password, which come from the webhook's URL (RFC 7617)."""
    scheme, _, credentials = _header(request, "authorization").partition(" ")
    if scheme.lower() != "basic":
        raise NotVerified
    _check(_base64(credentials.strip()), secrets)


def mailersend(request: WebhookRequest, secrets: Sequence[str], _now: float) -> None:
    """Source: MailerSend's API reference, "Webhooks", "Security"."""
    _check_hmac(_header(request, "signature"), request.body, secrets)


def mailtrap(request: WebhookRequest, secrets: Sequence[str], _now: float) -> None:
    """Source: Mailtrap's documentation, "Webhooks", "Verifying the signature"."""
    _check_hmac(_header(request, "mailtrap-signature"), request.body, secrets)


def mailgun(request: WebhookRequest, secrets: Sequence[str], _now: float) -> None:
    """Source: Mailgun's documentation, "Securing webhooks". The signature does not cover the report."""
    try:
        signature = _json(request)["signature"]
        text, given = f"{signature['timestamp']}{signature['token']}", str(signature["signature"])
    except (KeyError, TypeError, ValueError):  # ValueError: a number of thousands of digits
        raise NotVerified from None
    _check_hmac(given, _bytes(text), secrets)


def _check_hmac(given: str, signed: bytes, secrets: Sequence[str]) -> None:
    _check(given, [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets])


def mandrill(request: WebhookRequest, secrets: Sequence[str], _now: float) -> None:
    """Source: Mailchimp's developer guide, "Track and respond to activity with webhooks", "Authenticating requests".

    The first secret is the webhook's URL.
    """
    url, *keys = secrets
    given = _header(request, "x-mandrill-signature")
    fields = dict(parse_qsl(request.body.decode(errors="replace"), keep_blank_values=True))
    signed = (url + "".join(name + fields[name] for name in sorted(fields))).encode()
    _check(given, [base64.b64encode(hmac.digest(key.encode(), signed, "sha1")) for key in keys])


def resend(request: WebhookRequest, secrets: Sequence[str], now: float) -> None:
    """Source: Svix's documentation, "Verifying webhooks manually", which Resend's documentation refers to."""
    identity, timestamp = _header(request, "svix-id"), _header(request, "svix-timestamp")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= len("1700000000")):
        raise NotVerified
    if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        raise NotVerified
    signed = f"{identity}.{timestamp}.".encode() + request.body
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    expected = [base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    versions = [signature.partition(",") for signature in _header(request, "svix-signature").split(" ")]
    given = [signature for version, _, signature in versions if version == "v1"][:10]
    if not any([hmac.compare_digest(_bytes(g), e) for g in given for e in expected]):  # noqa: C419 (no early end)
        raise NotVerified


def unisender_go(request: WebhookRequest, secrets: Sequence[str], _now: float) -> None:
    """Source: Unisender Go's API reference, "Callback format": the MD5 of the body with the key in place of `auth`."""
    report = _json(request)
    given = report.get("auth") if isinstance(report, dict) else None
    if not isinstance(given, str) or len(given) != hashlib.md5(usedforsecurity=False).digest_size * 2:
        raise NotVerified
    body, auth = request.body, _bytes(given)
    signed = [body.replace(auth, secret.encode()) for secret in secrets]
    _check(auth, [hashlib.md5(text).hexdigest() for text in signed])  # noqa: S324 (the service chose it)


def postal(request: WebhookRequest, secrets: Sequence[str], _now: float) -> None:
    """Source: Postal's documentation, "Webhooks", "Signatures": RSA and SHA-1, by the installation's key."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 (an extra)
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415 (an extra)

    signature = _base64(_header(request, "x-postal-signature"))
    _check_public(secrets, signature, request.body, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303 (Postal chose it)


def sendgrid(request: WebhookRequest, secrets: Sequence[str], _now: float) -> None:
    """Source: SendGrid's documentation, "Getting started with the event webhook security features": ECDSA."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 (an extra)
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 (an extra)

    signature = _base64(_header(request, "x-twilio-email-event-webhook-signature"))
    timestamp = _header(request, "x-twilio-email-event-webhook-timestamp")
    _check_public(secrets, signature, _bytes(timestamp) + request.body, ec.ECDSA(hashes.SHA256()))


def _check_public(secrets: Sequence[str], signature: bytes, signed: bytes, *how: Any) -> None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 (an extra)

    for secret in secrets:  # they are public keys, so it does not matter how long this takes
        try:
            _public_key(secret).verify(signature, signed, *how)
        except InvalidSignature:
            continue
        return
    raise NotVerified


@cache
def _public_key(key: str) -> Any:
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # noqa: PLC0415 (an extra)

    return load_der_public_key(base64.b64decode(key))


_KEYS = {"RSAPublicKey": "a public RSA key", "ECPublicKey": "a public key of an elliptic curve"}
INSTALL = "uv sync --extra anymail"


@dataclass(frozen=True)
class Scheme:
    """How a service signs, and the setting that has the secrets."""

    setting: str
    verify: Verify
    public_key: str = ""  # the class of the key, if the secret is a public key

    def secrets(self, settings: WebhookSettings) -> tuple[str, ...]:
        """Return the secrets, or none if the service is not configured."""
        secrets = split(getattr(settings, self.setting))
        return (str(settings.mandrill_webhook_url), *secrets) if secrets and self.verify is mandrill else secrets

    def check(self, settings: WebhookSettings) -> None:
        """Check that the secrets are public keys, if the service has them.

        Raises:
            SettingsError: one of them is not, or the extra `anymail` is not installed.
        """
        if not self.public_key:
            return
        try:
            right = [type(_public_key(key)).__name__ == self.public_key for key in self.secrets(settings)]
        except ModuleNotFoundError:
            raise SettingsError(f"{variable(self.setting)}: needs the extra `anymail`: {INSTALL}") from None
        except ValueError:
            right = [False]
        if not all(right):
            raise SettingsError(
                f"{variable(self.setting)}: should be {_KEYS[self.public_key]} in base64, without PEM's lines"
            )


SCHEMES = {
    "brevo": Scheme("brevo_webhook_secret", basic),
    "mailersend": Scheme("mailersend_signing_secret", mailersend),
    "mailgun": Scheme("mailgun_webhook_signing_key", mailgun),
    "mailjet": Scheme("mailjet_webhook_secret", basic),
    "mailtrap": Scheme("mailtrap_tracking_secret", mailtrap),
    "mandrill": Scheme("mandrill_webhook_key", mandrill),
    "postal": Scheme("postal_webhook_key", postal, "RSAPublicKey"),
    "postmark": Scheme("postmark_webhook_secret", basic),
    "resend": Scheme("resend_signing_secret", resend),
    "sendgrid": Scheme("sendgrid_tracking_webhook_verification_key", sendgrid, "ECPublicKey"),
    "sparkpost": Scheme("sparkpost_webhook_secret", basic),
    "unisender_go": Scheme("unisender_go_webhook_key", unisender_go),
}
