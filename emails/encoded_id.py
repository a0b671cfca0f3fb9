"""Encodes an email's id for the header and the tag that a provider gets, and decodes it when a callback returns it."""

from __future__ import annotations

import base64
import binascii

from emails.message import InvalidMessage, check_email_id

ID_HEADER = "X-Email-Id"
ID_TAG = "email_id"  # for providers that have tags


def encoded_id(email_id: str) -> str:
    """Return the id in base64url without padding, which is safe in a header and in a tag."""
    return base64.urlsafe_b64encode(email_id.encode()).rstrip(b"=").decode()


def decoded_id(encoded: str) -> str:
    """Return the id that `encoded_id` encoded.

    Raises:
        InvalidMessage: the text is not the encoded id of an email.
    """
    padding = "=" * (-len(encoded) % 4)
    try:
        email_id = base64.b64decode(f"{encoded}{padding}", altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidMessage("InvalidEmailId", "the email id in it is not UTF-8 text in base64url") from None
    return check_email_id(email_id)
