"""Checks the headers that a row sets."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# mime.py or a provider writes these. If a row set one, it would contradict its own attributes.
RESERVED_HEADERS = frozenset(
    ("bcc", "cc", "date", "dkim-signature", "from", "message-id", "mime-version", "orig-date", "received", "reply-to")
) | {"return-path", "sender", "subject", "to", "x-email-id", "x-redirected-from"}

# A relay obeys these headers and removes them, however the message reaches it. If a row set one, it would choose what
# only the deployment should choose: with Amazon SES, the configuration set, the tags that bring the id back and the
# identity that sends (SES Developer Guide, "Specify your configuration set when you send email" and "Using sending
# authorization"); with SendGrid, even the recipients (SendGrid docs, "Using the SMTP API"). Each name is a prefix.
RELAY_HEADERS = {
    "x-ses-": "Amazon SES",
    "x-smtpapi": "SendGrid",
    "x-mc-": "Mailchimp Transactional",
    "x-mailgun-": "Mailgun",
    "x-pm-": "Postmark",
    "x-msys-api": "SparkPost",
}
# Somebody who sends a message again adds these (RFC 5322, section 3.6.6). A relay may take its recipients from them.
RESENT_PREFIX = "resent-"

MAX_SHOWN_NAME = 8  # characters of a header's or tag's name that a reason shows

ONE_CLICK = "List-Unsubscribe=One-Click"  # RFC 8058, section 3.1
# RFC 2369, section 2, without comments. A line of 998 characters has room for the header's name and any one of these.
_BRACKETED_URLS = re.compile(r" *<[!-;=?-~]{1,900}>(, *<[!-;=?-~]{1,900}>)* *")


def check_header_name(name: str) -> str:
    """Return the name if a row may set this header.

    Raises:
        ValueError: a row may not set it. The text says why.
    """
    lower = name.lower()
    if lower in RESERVED_HEADERS or lower.startswith("content-"):
        raise ValueError(f"{lower if lower in RESERVED_HEADERS else 'content-*'} is written by the service")
    if lower.startswith(RESENT_PREFIX):
        raise ValueError("resent-* means that somebody sends the message again, which the service does not do")
    for prefix, relay in RELAY_HEADERS.items():
        if lower.startswith(prefix):
            raise ValueError(
                f"{prefix}{'*' * prefix.endswith('-')} is an instruction to {relay}, which only the deployment may give"
            )
    return name


def shortened(name: str) -> str:
    """Return enough of a header's or tag's name for the row's author to recognise it.

    This is never the whole name, because a producer may have put an address or a secret there by mistake.
    """
    return f"{name[: min(MAX_SHOWN_NAME, len(name) // 2)]}…"


def check_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers if they may appear together.

    Raises:
        ValueError: a header is there twice, or one-click unsubscription (RFC 8058) could not work.
    """
    values = {name.lower(): value for name, value in headers.items()}
    if len(values) < len(headers):
        twice, _ = Counter(name.lower() for name in headers).most_common(1)[0]
        raise ValueError(f"has {shortened(twice)} twice: header names ignore case")
    if "list-unsubscribe-post" in values:
        _check_one_click(values)
    return headers


def _check_one_click(values: Mapping[str, str]) -> None:
    if values["list-unsubscribe-post"] != ONE_CLICK:
        raise ValueError(f"List-Unsubscribe-Post can only be {ONE_CLICK} (RFC 8058)")
    urls = values.get("list-unsubscribe", "")
    web = re.findall(r"<(https?):", urls, re.IGNORECASE)
    if [scheme.lower() for scheme in web] != ["https"] or not _BRACKETED_URLS.fullmatch(urls):
        raise ValueError(
            "List-Unsubscribe-Post needs a List-Unsubscribe like <https://example.com/u/1>, <mailto:u@example.com>: "
            "one https URL and no http one, each URL of at most 900 ASCII characters (RFC 8058)"
        )
