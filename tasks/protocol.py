"""Reads a Celery message for one of our tasks."""

from __future__ import annotations

import base64
import json
from typing import Any

from emails.message import InvalidMessage, check_email_id

# The tasks in tasks/pipeline.py that take an email_id as their first argument.
EMAIL_TASKS = frozenset({"tasks.process_email", "tasks.load_email", "tasks.send_email"})


def email_id_of(body: str) -> str:
    """Return the email_id in a message for a task that works on one email.

    Source: Celery's "Message Protocol", version 2, as kombu's virtual transports write it.

    Raises:
        InvalidMessage: it is not a message for such a task, or its email_id is not valid.
    """
    try:
        message = _json(body)
        args, kwargs, _ = _json(message["body"])
        if message["headers"]["task"] in EMAIL_TASKS:
            return check_email_id(args[0] if args else kwargs["email_id"])
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    raise InvalidMessage("NoEmailId", "it is not a message for a task that sends an email")


def _json(text: str) -> Any:
    """Return the value of JSON text. A program with Celery's default settings wraps the text in base64."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(base64.b64decode(text, validate=True))
