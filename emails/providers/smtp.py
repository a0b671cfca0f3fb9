"""Any SMTP server: your own relay, or a provider's."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Self

from emails.events import RejectReason
from emails.mime import message_id, to_mime
from emails.providers.connection import loss
from emails.providers.contract import (
    PermanentError,
    Receipt,
    RefusedRecipient,
    TemporaryError,
    UnknownResultError,
)
from emails.providers.smtp_sessions import Sessions
from emails.providers.smtp_settings import SmtpSettings
from settings import SettingsError

if TYPE_CHECKING:
    from emails.email import Email
    from emails.providers.smtp_sessions import Session
    from settings import Settings


class SmtpProvider:
    """Sends each email in one transaction, over a connection that is kept for the next email.

    The server accepts an email by its answer to the last dot, and cannot accept the email before it has that dot (RFC
    5321, sections 4.1.1.4 and 4.2.5). If the connection is lost before the dot is sent, the error is temporary. If the
    connection is lost after that, it is unknown whether the email was accepted.
    """

    name = "smtp"
    max_message_bytes = None  # the server announces its own limit after EHLO

    def __init__(self, settings: Settings, own: SmtpSettings) -> None:
        self.longest_send = settings.provider_timeout
        self._max_attempts = settings.max_attempts
        self._sessions = Sessions(own)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return a provider with the settings from the environment.

        Raises:
            SettingsError: a setting is wrong, the server is missing, or only one of user name and password is set.
        """
        own = SmtpSettings.read()
        if not own.smtp_host:
            raise SettingsError(
                "EMAIL_SMTP_HOST: is missing; should be the SMTP server's name, "
                "because EMAIL_PROVIDER or EMAIL_SEND_VIA names smtp"
            )
        if bool(own.smtp_username) != bool(own.smtp_password):
            missing = "EMAIL_SMTP_PASSWORD" if own.smtp_username else "EMAIL_SMTP_USERNAME"
            raise SettingsError(f"{missing}: is missing; set both the user name and the password, or neither")
        return cls(settings, own)

    def max_send_rate(self) -> float | None:
        return None  # an SMTP server has no way to say it

    def close(self) -> None:
        """Close the idle connections."""
        self._sessions.close()

    def send(self, email: Email) -> Receipt:
        deadline = time.monotonic() + self.longest_send
        message = to_mime(email)
        try:
            with self._sessions.one(deadline) as session:
                return self._transact(session, email, message)
        except OSError as error:  # all errors of smtplib and ssl are OSErrors
            raise TemporaryError(f"no connection to the SMTP server: {loss(error, deadline)}") from None

    def _transact(self, session: Session, email: Email, message: bytes) -> Receipt:
        parameters = _parameters(session, email, len(message))
        reply = session.ask(" ".join([f"MAIL FROM:<{email.sender.addr_spec}>", *parameters]))
        if not reply.accepted:
            raise reply.error("the sender")
        refused = self._name_recipients(session, email)
        reply = session.ask("DATA")
        if reply.code != 354:  # noqa: PLR2004 (RFC 5321, section 4.2.2)
            raise reply.error("the message")
        session.send(re.sub(rb"^\.", b"..", message, flags=re.MULTILINE))  # RFC 5321, section 4.5.2
        session.send(b".\r\n")  # if this raises, the dot was not sent
        try:
            reply = session.hear()
        except OSError as error:
            raise UnknownResultError(f"no answer to the final dot: {loss(error, session.deadline)}") from None
        if reply.accepted:
            return Receipt(self.name, message_id(email), reply.receipt, refused)
        if reply.code < 400:  # noqa: PLR2004 (RFC 5321, section 4.2.1)
            raise UnknownResultError(f"the answer to the final dot neither accepts nor refuses the email: {reply}")
        raise reply.error("the message")

    def _name_recipients(self, session: Session, email: Email) -> tuple[RefusedRecipient, ...]:
        """Tell the server the recipients, and return those that will not get the email.

        If the server defers some recipients, the email is not sent to the others either, because the next attempt would
        send it to them again. Only the last attempt sends it to the others.

        Raises:
            TemporaryError, PermanentError: nobody gets the email now.
        """
        replies = {
            recipient.addr_spec: session.ask(f"RCPT TO:<{recipient.addr_spec}>") for recipient in email.recipients
        }
        refused = tuple(
            RefusedRecipient(address, reply.reject_reason, reply.words)
            for address, reply in replies.items()
            if reply.refused
        )
        deferred = {address: reply for address, reply in replies.items() if not reply.accepted and not reply.refused}
        if len(refused) == len(replies):
            reply = next(iter(replies.values()))
            raise PermanentError(f"the SMTP server rejected every recipient: {reply}", reply.reject_reason, refused)
        nobody = len(refused) + len(deferred) == len(replies)
        if deferred and (nobody or email.attempts < self._max_attempts):
            reply = next(iter(deferred.values()))
            raise reply.error(f"{len(deferred)} of {len(replies)} recipients")
        timed_out = (
            RefusedRecipient(address, RejectReason.TIMED_OUT, reply.words) for address, reply in deferred.items()
        )
        return (*refused, *timed_out)


def _parameters(session: Session, email: Email, size: int) -> list[str]:
    """Return the parameters of the MAIL command, by what the server supports and the email needs.

    Raises:
        PermanentError: the email needs something that the server does not support.
    """
    parameters = []
    if session.has_extn("size"):
        limit = session.esmtp_features["size"]
        if limit.isdecimal() and 0 < int(limit) < size:  # 0 means no limit (RFC 1870, section 4)
            raise PermanentError(f"the message has {size} bytes; the SMTP server accepts at most {limit}")
        parameters.append(f"SIZE={size}")
    # To and Cc are named too, because they stay in the header if the email is redirected.
    mailboxes = (email.sender, *email.recipients, *email.to, *email.cc, *email.reply_to)
    if not all(address.username.isascii() for address in mailboxes):
        if not session.has_extn("smtputf8"):
            raise PermanentError("an address needs SMTPUTF8 (RFC 6531), which the SMTP server does not offer")
        parameters += ["BODY=8BITMIME", "SMTPUTF8"]
    return parameters
