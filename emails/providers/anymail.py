"""Any of the services behind django-anymail, which writes the request and reads the answer of each.

Nothing of Django's own sending is used: it would follow redirects and has no limit for the whole send.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from email.message import MIMEPart
from email.utils import parsedate_to_datetime
from importlib import import_module
from mimetypes import guess_type
from typing import TYPE_CHECKING, Any

from anymail.exceptions import AnymailError, AnymailInvalidAddress, AnymailUnsupportedFeature, AnymailWarning
from django.core.mail import EmailMultiAlternatives
from pydantic import SecretStr
from requests import Request

import emails.django_settings  # noqa: F401 (anymail needs it)
from emails.encoded_id import ID_HEADER, ID_TAG, encoded_id
from emails.events import RejectReason
from emails.logs import place
from emails.providers.anymail_services import NOT_FOLLOWED, QUARTER_HOUR, STATUSES
from emails.providers.api_client import ApiClient, body
from emails.providers.contract import (
    Answer,
    PermanentError,
    Receipt,
    RefusedRecipient,
    UnknownResultError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.headerregistry import Address

    from requests import PreparedRequest, Response

    from emails.email import Attachment, Email
    from emails.providers.anymail_services import Service
    from emails.providers.contract import SendError
    from settings import EnvironmentSettings, Settings

logger = logging.getLogger(__name__)

CODE = re.compile(r"[0-9]{1,6}")
MAX_QUOTED = 500  # characters of an answer that the history keeps
LONGEST_RETRY_AFTER = 86_400
MULTIPLE_CHOICES, BAD_REQUEST, SERVER_ERROR = 300, 400, 500

ACCEPTED = {"sent", "queued"}
REFUSED = {"invalid": RejectReason.INVALID, "rejected": RejectReason.BLOCKED, "failed": RejectReason.OTHER}

# The beginning of what anymail says about a feature that a service does not have, with the attribute and what we say
# instead: anymail's texts quote the email.
UNSUPPORTED = {
    "inline attachments": ("Attachments", "takes no inline images (content_id)"),
    "attachments of type": ("Attachments", "takes no content_type that does not fit the file's name"),
    "multiple reply_to": ("ReplyTo", "takes only one address"),
    "EAI in from_email": ("Sender", "takes only ASCII before the @"),
    "EAI in reply_to": ("ReplyTo", "takes only ASCII before the @"),
    "EAI with multiple reply_to": ("ReplyTo", "takes only ASCII before the @ if there are several addresses"),
    "EAI in": ("RecipientsTo, RecipientsCc or RecipientsBcc", "takes only ASCII before the @"),
    "non-ASCII characters in metadata": ("Tags", "takes only ASCII"),
    "non-ASCII characters in": ("Headers", "takes only ASCII"),
}


class AnymailProvider:
    """Sends each email by one request, over a connection that is kept for the next email."""

    def __init__(self, service: Service, settings: Settings, own: EnvironmentSettings) -> None:
        self.name = service.name
        self.longest_send = settings.provider_timeout
        self.max_message_bytes = service.max_message_bytes
        self._service = service
        self._backend = _backend(service, own)
        self._client = ApiClient(self._backend.api_url, service.title)

    def max_send_rate(self) -> float | None:
        return None  # no service says it

    def close(self) -> None:
        """Close the idle connections."""
        self._client.close()

    def send(self, email: Email) -> Receipt:
        deadline = time.monotonic() + self.longest_send
        payload, request = self._request(email)
        response = self._client.post(request, deadline)
        error = self._error(response)
        if error is None:
            return self._receipt(email, self._statuses(payload, response))
        if isinstance(error, PermanentError) and response.status_code == self._service.refuses_recipients_with:
            refused = _refused(email, self._statuses(payload, response))
            raise PermanentError(str(error), error.reject_reason, refused or error.refused)
        raise error

    def _request(self, email: Email) -> tuple[Any, PreparedRequest]:
        """Return anymail's payload, and the request for it.

        Raises:
            PermanentError: the service cannot carry something of the email. Nothing was sent.
        """
        title, limit = self._service.title, self.max_message_bytes
        for attribute, lack in _dropped(self._service, email):
            raise PermanentError(f"{attribute}: {title} {lack}")
        try:
            payload = self._backend.build_message_payload(_message(self._service, email), {})
            request = Request(**payload.get_request_params(self._backend.api_url)).prepare()
        except AnymailUnsupportedFeature as error:
            attribute, lack = _unsupported(error)
            raise PermanentError(f"{attribute}: {title} {lack}") from None
        except AnymailInvalidAddress:
            raise PermanentError(f"an address is not one that {title} takes", RejectReason.INVALID) from None
        except AnymailError:  # its text may quote the email
            raise PermanentError(f"anymail cannot write the email for {title}") from None
        size = len(body(request))
        if payload.files:  # they are not in base64 yet, unlike in JSON
            size += sum(len(attachment.body or b"") for attachment in email.attachments) // 3
        if limit is not None and size > limit:
            raise PermanentError(f"the message has {size} bytes; {title} accepts at most {limit}")
        return payload, request

    def _error(self, response: Response) -> SendError | None:
        """Return what the answer's code or status means, or None if the email was accepted for some recipient.

        The answer's text may quote an address, so it only goes into the history.
        """
        service, status = self._service, response.status_code
        codes = _codes(service, response)
        keys = [key for code in codes for key in (f"{status} {code}", code)]
        by_status = service.statuses.get(status, STATUSES.get(status))
        answer = next((service.codes[key] for key in keys if key in service.codes), by_status)
        said = ", ".join([str(status), *(code for code in codes if code in service.codes or CODE.fullmatch(code))])
        if answer is None and status < MULTIPLE_CHOICES:
            return None
        if answer is None and (status in NOT_FOLLOWED or BAD_REQUEST <= status < SERVER_ERROR):
            answer = Answer("did not accept the request", None, QUARTER_HOUR)
        if answer is None:
            return UnknownResultError(f"{service.title} answered {said}")
        longest = max(answer.retry_after, _retry_after(response))
        error = answer._replace(says=f"{service.title} {answer.says}", retry_after=longest).error(said)
        if isinstance(error, PermanentError):
            error.refused = (RefusedRecipient("", error.reject_reason, response.text[:MAX_QUOTED]),)
        return error

    def _statuses(self, payload: Any, response: Response) -> dict[str, Any]:
        """Return anymail's status of each recipient, or of none if the answer is not what the service documents."""
        try:
            statuses = self._backend.parse_recipient_status(response, payload, payload.message)
        except Exception as error:  # noqa: BLE001 (the answer may have any form)
            # The error's text would quote the answer.
            logger.error("%s's answer is not understood: %s", self._service.title, place(error))
            return {}
        return {address.lower(): status for address, status in statuses.items()}

    def _receipt(self, email: Email, statuses: dict[str, Any]) -> Receipt:
        """Return the receipt if a recipient was accepted.

        Raises:
            PermanentError: every recipient was refused.
            UnknownResultError: the answer does not say.
        """
        title = self._service.title
        accepted = [status for status in statuses.values() if status.status in ACCEPTED]
        refused = _refused(email, statuses)
        if accepted:
            message_id = next((str(status.message_id) for status in accepted if status.message_id), "")
            return Receipt(self.name, message_id, f"accepted by {title}", refused)
        if refused:
            raise PermanentError(f"{title} refused every recipient", refused[0].reason, refused)
        raise UnknownResultError(f"{title}'s answer does not say whether it accepted the email")


def _backend(service: Service, own: EnvironmentSettings) -> Any:
    """Return anymail's backend, which is only used to write requests and to read answers. Threads may share it."""
    options = {
        name.removeprefix(f"{service.name}_"): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name, value in own
        if value is not None
    }
    with warnings.catch_warnings():
        # anymail can no longer test SendGrid against the real API. Our docs say so.
        warnings.simplefilter("ignore", AnymailWarning)
        return import_module(f"anymail.backends.{service.name}").EmailBackend(
            ignore_unsupported_features=False, **options
        )


def _dropped(service: Service, email: Email) -> Iterator[tuple[str, str]]:
    """Yield the attributes that anymail or the service would drop without a word, or that the service never takes."""
    to, _, _ = _destination(email)
    if service.needs_to and not to:
        yield "RecipientsTo", "does not take an email without it"
    if email.tags and not service.has_metadata:
        yield "Tags", "takes no names with values"
    if service.longest_id and len(encoded_id(email.id)) > service.longest_id:
        yield "EmailId", f"takes only ids of at most {service.longest_id * 3 // 4} bytes"
    if service.metadata_header.lower() in (name.lower() for name in email.headers):
        yield "Headers", f"gets the Tags in {service.metadata_header}"
    for number, attachment in enumerate(email.attachments):
        kind, *parameters = attachment.content_type.split(";")
        names = {parameter.partition("=")[0].strip().lower() for parameter in parameters}
        # What the name says is not known on every machine. The service may know more.
        if service.guesses_types and guess_type(attachment.name)[0] not in (None, kind.strip().lower()):
            yield f"Attachments[{number}]", "takes the type from the file's name, which has another one"
        if kind.lower().startswith("text/") and not _is_in_its_charset(attachment):
            yield f"Attachments[{number}]", "takes a text only in its charset, which is UTF-8 by default"
        if (service.guesses_types or service.drops_parameters) and names - {"", "charset", "name"}:
            yield f"Attachments[{number}]", "takes no parameters of a content_type"


def _message(service: Service, email: Email) -> EmailMultiAlternatives:
    to, cc, bcc = _destination(email)
    identity = encoded_id(email.id)
    message = EmailMultiAlternatives(
        subject=email.subject,
        body=email.text or email.html,
        from_email=str(email.sender),
        to=[str(mailbox) for mailbox in to],
        cc=[str(mailbox) for mailbox in cc],
        bcc=[str(mailbox) for mailbox in bcc],
        reply_to=[str(mailbox) for mailbox in email.reply_to],
        headers={ID_HEADER: identity, **email.headers} if service.has_headers else email.headers,
    )
    if not email.text:
        message.content_subtype = "html"
    elif email.html:
        message.attach_alternative(email.html, "text/html")
    message.attachments = [
        _File(attachment, inline=bool(email.html and attachment.content_id)) for attachment in email.attachments
    ]
    if service.has_metadata:
        message.metadata = {**email.tags, ID_TAG: identity}
    else:
        message.tags = [identity]
    return message


class _File(MIMEPart):
    """An attachment as anymail reads it. The standard library would decode a text and could change its bytes."""

    def __init__(self, attachment: Attachment, *, inline: bool) -> None:
        super().__init__()
        if attachment.body is None:
            raise TypeError("the attachment has not been fetched")
        self._attachment = attachment
        self._disposition = "inline" if inline else "attachment"
        self["Content-Type"] = attachment.content_type
        if inline:
            self["Content-ID"] = f"<{attachment.content_id}>"

    def get_content(self, *_: object, **__: object) -> bytes | None:
        return self._attachment.body

    def get_filename(self, failobj: Any = None) -> Any:
        return self._attachment.name

    def get_content_disposition(self) -> str:
        return self._disposition


def _is_in_its_charset(attachment: Attachment) -> bool:
    try:
        (attachment.body or b"").decode(_File(attachment, inline=False).get_content_charset("utf-8"))
    except (UnicodeError, LookupError):  # LookupError: an unknown charset
        return False
    return True


def _destination(email: Email) -> tuple[list[Address], list[Address], list[Address]]:
    """Return each recipient once, in the first of To, Cc and Bcc that has it.

    The only recipient is in To even if the row has it as Bcc, or if it replaces the row's recipients: services want a
    To, and it tells nobody anything.
    """
    recipients = email.recipients
    if len(recipients) == 1:
        return recipients, [], []
    to = {mailbox.addr_spec for mailbox in email.to}
    cc = {mailbox.addr_spec for mailbox in email.cc} - to
    return (
        [mailbox for mailbox in recipients if mailbox.addr_spec in to],
        [mailbox for mailbox in recipients if mailbox.addr_spec in cc],
        [mailbox for mailbox in recipients if mailbox.addr_spec not in to | cc],
    )


def _unsupported(error: Exception) -> tuple[str, str]:
    """Return the attribute that a service does not take, and our own words for what it lacks."""
    feature = str(error.args[0]).partition(" does not support ")[2]
    found = (said for start, said in UNSUPPORTED.items() if feature.lower().startswith(start.lower()))
    return next(found, ("the email", "cannot carry a feature of it"))


def _codes(service: Service, response: Response) -> list[str]:
    """Return the codes that the answer has where the service puts them."""
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return []
    codes = []
    for path in service.codes_at:
        found = answer
        with suppress(KeyError, IndexError, TypeError):
            for key in path:
                found = found[key]
            if isinstance(found, str | int):
                codes.append(str(found))
    return codes


def _retry_after(response: Response) -> float:
    """Return how many seconds the service wants us to wait (RFC 9110, section 10.2.3), or 0 if it does not say."""
    given = response.headers.get("Retry-After", "").strip()
    if CODE.fullmatch(given):
        return min(int(given), LONGEST_RETRY_AFTER)
    try:
        seconds = (parsedate_to_datetime(given) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # TypeError: a time without a zone
        return 0
    return min(max(seconds, 0), LONGEST_RETRY_AFTER)


def _refused(email: Email, statuses: dict[str, Any]) -> tuple[RefusedRecipient, ...]:
    found = ((recipient.addr_spec, statuses.get(recipient.addr_spec.lower())) for recipient in email.recipients)
    return tuple(
        RefusedRecipient(address, REFUSED[status.status], f"anymail's status: {status.status}")
        for address, status in found
        if status and status.status in REFUSED
    )
