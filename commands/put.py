"""The command that writes an email's row."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import IO, Any

import click

from commands import say
from emails.email import Email, InvalidRow
from emails.hints import hint
from emails.status import EmailStatus, status_of
from emails.store import Conflict, EmailStore, StoreRefused
from settings import get_settings


@click.command()
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
def put(file: IO[str]) -> None:
    """Write a row from the JSON object in FILE, or in standard input.

    The row is checked as a worker would check it. If EmailStatus is missing, it becomes Pending. If the id has a row
    already, nothing is written.

    \b
    Example:
      echo '{"EmailId": "test-1", "Subject": "Hello", "Sender": "shop@example.com",
             "RecipientsTo": ["ada@example.com"], "BodyText": "Hi"}' | email-service put
    """  # noqa: D301 (click looks for the control character, not for a backslash)
    row = _read(file)
    if status_of(row) is None:
        row["EmailStatus"] = EmailStatus.PENDING.value
    try:
        email = Email.from_row(row)
        EmailStore.from_settings(get_settings()).put(row)
    except InvalidRow as error:
        raise click.ClickException(f"This row would fail: {error}") from None
    except StoreRefused as error:
        limit = (
            " (a row has at most 400 KB)" if error.__cause__ else ""
        )  # DynamoDB refused the row, without naming an attribute
        raise click.ClickException(f"This row cannot be stored: {error}{limit}") from None
    except Conflict:
        raise click.ClickException(f"{email.id} has a row already; see `{hint('status', email.id)}`.") from None
    say(f"{email.id} is {email.status}. Send it: {hint('enqueue', email.id)}")


def _read(file: IO[str]) -> dict[str, Any]:
    try:
        row = json.load(file, parse_float=_number, parse_int=_number, parse_constant=_number)
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{file.name} is not JSON: {error}") from None
    if not isinstance(row, dict):
        raise click.ClickException(f"{file.name} is JSON, but not an object of attributes.")
    return row


def _number(text: str) -> Decimal:
    """Parse the number. If its exponent is too large even for Decimal, return NaN, which no row can hold."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")
