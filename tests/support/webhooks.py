"""Signs webhooks as each service documents it, with secrets made for the test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from typing import Any
from urllib.parse import quote_plus

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from emails.webhooks.request import WebhookRequest
from emails.webhooks.settings import WebhookSettings

LOGIN = "reports:correct-horse-battery"
KEY = "0123456789abcdef"
SVIX_KEY = base64.b64encode(b"a key of 24 bytes at all").decode()
MANDRILL_URL = "https://mail.example.com/webhooks/mandrill"


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 1024)  # short, because making it is slow


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public(key: Any) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def secrets() -> dict[str, str]:
    """Return the settings, by their field's name, that accept what `signed` signs."""
    logins = {f"{name}_webhook_secret": LOGIN for name in ("brevo", "mailjet", "postmark", "sparkpost")}
    return {
        **logins,
        "mailersend_signing_secret": KEY,
        "mailgun_webhook_signing_key": KEY,
        "mailtrap_tracking_secret": KEY,
        "mandrill_webhook_key": KEY,
        "mandrill_webhook_url": MANDRILL_URL,
        "postal_webhook_key": public(rsa_key()),
        "resend_signing_secret": f"whsec_{SVIX_KEY}",
        "sendgrid_tracking_webhook_verification_key": public(ec_key()),
        "unisender_go_webhook_key": KEY,
    }


def webhook_settings(**changed: Any) -> WebhookSettings:
    return WebhookSettings.read(**{**secrets(), **changed})


def signed(provider: str, report: Any, key: str = KEY, login: str = LOGIN, now: float | None = None) -> WebhookRequest:
    """Return the request with which the service sends the report, a value that it writes as JSON."""
    now = time.time() if now is None else now
    headers = {"content-type": "application/json"}
    body = report if isinstance(report, bytes) else json.dumps(report).encode()
    if provider in ("brevo", "mailjet", "postmark", "sparkpost"):
        headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    elif provider == "mailersend":
        headers["signature"] = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    elif provider == "mailtrap":
        headers["mailtrap-signature"] = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    elif provider == "mailgun":
        timestamp, token = str(int(now)), "a" * 50
        signature = hmac.new(key.encode(), f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
        block = {"signature": {"timestamp": timestamp, "token": token, "signature": signature}}
        body = json.dumps(block | report).encode()
    elif provider == "mandrill":
        text = body.decode()
        body = f"mandrill_events={quote_plus(text)}".encode()
        digest = hmac.new(key.encode(), f"{MANDRILL_URL}mandrill_events{text}".encode(), hashlib.sha1).digest()
        headers["content-type"] = "application/x-www-form-urlencoded"
        headers["x-mandrill-signature"] = base64.b64encode(digest).decode()
    elif provider == "postal":
        headers["x-postal-signature"] = base64.b64encode(
            rsa_key().sign(body, padding.PKCS1v15(), hashes.SHA1())
        ).decode()
    elif provider == "resend":
        text = f"msg_1.{int(now)}.".encode() + body
        digest = hmac.new(base64.b64decode(SVIX_KEY), text, hashlib.sha256).digest()
        headers |= {"svix-id": "msg_1", "svix-timestamp": str(int(now))}
        headers["svix-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    elif provider == "sendgrid":
        timestamp = str(int(now))
        signature = ec_key().sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers["x-twilio-email-event-webhook-timestamp"] = timestamp
        headers["x-twilio-email-event-webhook-signature"] = base64.b64encode(signature).decode()
    elif provider == "unisender_go":
        with_key = json.dumps({"auth": key} | report).encode()
        body = json.dumps({"auth": hashlib.md5(with_key).hexdigest()} | report).encode()
    return WebhookRequest(headers, body)
