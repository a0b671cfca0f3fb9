"""What AWS Lambda calls, made once for many events."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from email_lambda.batch import Batch
from email_lambda.record_callbacks import RecordCallback
from email_lambda.send_emails import SendEmail
from emails.logs import formatter, write_by
from settings import get_settings
from settings.aws import client

if TYPE_CHECKING:
    from email_lambda.batch import Step

_settings = get_settings()
write_by(logging.StreamHandler(sys.stdout), logging.INFO, formatter(_settings.log_format))


def _batch(step: Step) -> Batch:
    return Batch(step, client("sqs", _settings), missing_row_wait=_settings.missing_row_wait)


send_emails = _batch(SendEmail.from_settings(_settings))
record_callbacks = _batch(RecordCallback.from_settings(_settings))
