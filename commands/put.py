"""The command that writes an email's row."""

from __future__ import annotations

import difflib
import json
import time
from decimal import Decimal, InvalidOperation
from typing import IO, TYPE_CHECKING

import click

from commands import say
from emails.decide import End, decide_by_content
from emails.email import Attachment, Email
from emails.hints import hint
from emails.message import InvalidMessage, check_email_id
from emails.report import ATTRIBUTES
from emails.status import EmailStatus, status_of
from emails.store import Conflict, EmailStore, StoreRefused
from settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from emails.store import Row

KNOWN = {field.alias or name for name, field in Email.model_fields.items()} | set(ATTRIBUTES)
# `last_modified` is in the rows of some producers, and the service ignores it (docs/producers.md).
KNOWN_OF_ATTACHMENT = {*Attachment.model_fields, "last_modified"}


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
def put(file: IO[str]) -> None:
    """Write a row from the JSON object in FILE, or in standard input.

    The row is checked as a worker with the settings of this shell would check it. If EmailStatus is missing, it becomes
    Pending. If the id has a row already, nothing is written. An attribute that workers do not know is kept, with a
    warning.

    \b
    Example:
      echo '{"EmailId": "test-1", "Subject": "Hello", "Sender": "shop@example.com",
             "RecipientsTo": ["ada@example.com"], "BodyText": "Hi"}' | email-service put
    """  # noqa: D301 (click looks for the control character, not for a backslash)
    row = read_row(file)
    write(EmailStore.from_settings(get_settings()), row)
    say(f"{row['EmailId']} is {status_of(row)}. Send it: {hint('enqueue', row['EmailId'])}")


def read_row(file: IO[str]) -> Row:
    """Read a row, check it, and warn of attributes that workers do not know. It is Pending unless it has a status."""
    try:
        row = json.load(file, parse_float=_number, parse_int=_number, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{file.name} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise click.ClickException(f"{file.name} is JSON, but not an object of attributes.")
    if status_of(row) is None:
        row["EmailStatus"] = EmailStatus.PENDING.value
    for warning in _unknown_attributes(row):  # first, because a misspelt name may be why another is missing
        say(f"Warning: {warning}", err=True)
    if reason := _why_it_would_fail(row):
        raise click.ClickException(f"This row would fail: {reason}")
    return row


def write(store: EmailStore, row: Row) -> None:
    try:
        store.put(row)
    except StoreRefused as error:
        # If DynamoDB refused the row, it named no attribute.
        limit = " (a row has at most 400 KB)" if error.__cause__ else ""
        raise click.ClickException(f"This row cannot be stored: {error}{limit}") from None
    except Conflict:
        email_id = row["EmailId"]
        raise click.ClickException(f"{email_id} has a row already; see `{hint('status', email_id)}`.") from None


def _why_it_would_fail(row: Row) -> str:
    decision = decide_by_content(row, time.time(), get_settings())
    if isinstance(decision, End):
        return decision.reason
    try:
        check_email_id(row["EmailId"])
    except InvalidMessage as error:
        return f"EmailId: {error.detail}"
    return ""


def _unknown_attributes(row: Row) -> Iterator[str]:
    yield from _unknown_names("", row, KNOWN)
    attachments = row.get("Attachments")
    for number, attachment in enumerate(attachments if isinstance(attachments, list) else []):
        if isinstance(attachment, dict):
            yield from _unknown_names(f"Attachments[{number}].", attachment, KNOWN_OF_ATTACHMENT)


def _unknown_names(where: str, names: Iterable[str], known: set[str]) -> Iterator[str]:
    by_lower_case = {name.lower(): name for name in known}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
            advice = f" Did you mean {by_lower_case[near[0]]}?" if near else ""
            yield f"{where}{name} is not an attribute that workers know, so they ignore it.{advice}"


def _number(text: str) -> Decimal:
    """Parse the number. If its exponent is too large even for Decimal, return NaN, which no row can hold."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")
