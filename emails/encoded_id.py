"""An email's id as the email carries it to the provider, in a header and in a tag, and as callbacks bring it back."""

from __future__ import annotations

import base64
import binascii

from emails.message import InvalidMessage, check_email_id

ID_HEADER = "X-Email-Id"
ID_TAG = "email_id"  # of a provider that has tags


def encoded_id(email_id: str) -> str:
    """The id in base64url without padding, which is safe in a header and in a tag."""
    return base64.urlsafe_b64encode(email_id.encode()).rstrip(b"=").decode()


def decoded_id(encoded: str) -> str:
    """The id that `encoded_id` encoded.

    Raises:
        InvalidMessage: it is not the id of any email.
    """
    padding = "=" * (-len(encoded) % 4)
    try:
        email_id = base64.b64decode(f"{encoded}{padding}", altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidMessage("InvalidEmailId", "the email's id in it is not base64url of UTF-8") from None
    return check_email_id(email_id)
