"""The functions that AWS Lambda calls. They are made once and handle many events."""

from __future__ import annotations

import logging
import sys

from email_lambda.batch import Batch
from email_lambda.steps import RecordCallback, SendEmail
from emails.logs import formatter, write_by
from emails.sender import Sender
from emails.tracking import Tracking
from settings import get_settings
from settings.aws import client

_settings = get_settings()
write_by(logging.StreamHandler(sys.stdout), logging.INFO, formatter(_settings.log_format))


_sqs = client("sqs", _settings)
send_emails = Batch(SendEmail(Sender.from_settings(_settings)), _sqs)
record_callbacks = Batch(RecordCallback(Tracking.from_settings(_settings)), _sqs)
