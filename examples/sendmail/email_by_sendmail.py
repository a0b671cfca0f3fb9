"""A provider in a package of its own, which sends by the machine's `sendmail`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from pydantic import Field

from emails.mime import message_id, to_mime
from emails.providers.contract import PermanentError, Receipt, TemporaryError, UnknownResultError
from settings import EnvironmentSettings

if TYPE_CHECKING:
    from emails.email import Email
    from settings import Settings

EX_TEMPFAIL = 75  # sysexits.h


class SendmailSettings(EnvironmentSettings):
    sendmail_program: str = Field(default="sendmail", pattern="^[^ ]+$", description="the program, without arguments")


class SendmailProvider:
    name = "sendmail"
    max_message_bytes = None  # sendmail checks it

    def __init__(self, settings: Settings) -> None:
        self.longest_send = settings.provider_timeout
        self.program = SendmailSettings.read().sendmail_program

    def max_send_rate(self) -> None:
        return None

    def send(self, email: Email) -> Receipt:
        recipients = [recipient.addr_spec for recipient in email.recipients]
        command = [self.program, "-i", "-f", email.sender.addr_spec, "--", *recipients]
        message = to_mime(email).replace(b"\r\n", b"\n")
        try:
            ended = subprocess.run(  # noqa: S603 (the operator chooses the program)
                command, input=message, capture_output=True, timeout=self.longest_send, check=False
            )
        except FileNotFoundError:
            raise TemporaryError("there is no sendmail program") from None
        except subprocess.TimeoutExpired:
            raise UnknownResultError("sendmail did not end in time") from None
        if ended.returncode == EX_TEMPFAIL:
            raise TemporaryError("sendmail asks for another try")
        if ended.returncode < 0:
            raise UnknownResultError("sendmail was killed")
        if ended.returncode > 0:
            raise PermanentError(f"sendmail refuses the email with exit code {ended.returncode}")
        return Receipt(self.name, message_id(email))
