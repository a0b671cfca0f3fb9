"""What a message of Celery's for a task of ours says."""

from __future__ import annotations

import base64
import json
from typing import Any

from emails.message import InvalidMessage, check_email_id

# Those of tasks/pipeline.py whose first argument is an email_id.
EMAIL_TASKS = frozenset({"tasks.process_email", "tasks.load_email", "tasks.send_email"})


def email_id_of(body: str) -> str:
    """The email_id in a message for a task that works on one email.

    Source: Celery's "Message Protocol", version 2, as kombu's virtual transports write it.

    Raises:
        InvalidMessage
    """
    try:
        message = _json(body)
        args, kwargs, _ = _json(message["body"])
        if message["headers"]["task"] in EMAIL_TASKS:
            return check_email_id(args[0] if args else kwargs["email_id"])
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    raise InvalidMessage("NoEmailId", "it is no message for a task that sends an email")


def _json(text: str) -> Any:
    """The value of JSON text, which a program with Celery's own settings wraps in base64."""
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(base64.b64decode(text, validate=True))
