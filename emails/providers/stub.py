"""The provider for trying things out. It accepts every email, and can write it to a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from emails.mailbox import parse_mailbox
from emails.mime import message_id, to_mime
from emails.providers.contract import PermanentError, Receipt, TemporaryError, UnknownResultError
from settings import EnvironmentSettings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emails.email import Email
    from settings import Settings

LOCAL_OUTBOX = Path("outbox")  # the default for the local emulator
NO_OUTBOX = Path("none")

Failure = Annotated[str, Field(pattern=r"^(temporary|permanent|unknown)(:[1-9][0-9]*)?$")]


def _from_json(value: object) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise ValueError("should be JSON") from None


class StubSettings(EnvironmentSettings):
    """Where the stub writes emails, and for which recipients it fails."""

    stub_outbox: Path | None = Field(
        default=None, description="the folder in which the stub writes each email as an .eml file, or none"
    )
    stub_failures: Annotated[dict[str, Failure], NoDecode, BeforeValidator(_from_json)] = Field(
        default={},
        repr=False,
        description="a JSON object that maps recipients to temporary, permanent or unknown; "
        ":N fails only the first N attempts",
    )

    def outbox(self, settings: Settings) -> Path | None:
        """Return the folder in which the stub writes emails, or None if it writes none."""
        if self.stub_outbox is None:
            return LOCAL_OUTBOX if settings.is_local else None
        return None if self.stub_outbox == NO_OUTBOX else self.stub_outbox


class StubProvider:
    """Accepts every email, and writes it to `<outbox>/<hash>.eml` if an outbox is set.

    `failures` maps recipients to the way in which they fail: `temporary`, `permanent` or `unknown`. With
    `temporary:2`, only the first two attempts fail.
    """

    name = "stub"
    longest_send = 1  # it writes a file
    max_message_bytes = None

    def __init__(self, outbox: Path | None = None, failures: Mapping[str, str] | None = None) -> None:
        self._outbox = outbox
        self._failures = {} if failures is None else failures

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return a provider with the settings from the environment.

        Raises:
            SettingsError: a setting is wrong, or a recipient in it is not an address.
        """
        own = StubSettings.read()
        try:
            failures = {parse_mailbox(key).addr_spec: failure for key, failure in own.stub_failures.items()}
        except ValueError as error:
            raise SettingsError(f"EMAIL_STUB_FAILURES: a recipient {error}") from None
        return cls(own.outbox(settings), failures)

    def max_send_rate(self) -> float | None:
        return None

    def send(self, email: Email) -> Receipt:
        content = to_mime(email)
        for recipient in email.recipients:
            self._fail(self._failures.get(recipient.addr_spec, ""), email.attempts)
        response = "accepted by the stub, which delivers nothing"
        if self._outbox:
            response += f"; written to {_write(self._outbox, email.id, content)}"
        return Receipt(self.name, message_id(email), response)

    def _fail(self, failure: str, attempts: float) -> None:
        kind, _, only_first = failure.partition(":")
        if only_first and attempts > int(only_first):
            return
        if kind == "temporary":
            raise TemporaryError("the stub was told to fail temporarily")
        if kind == "permanent":
            raise PermanentError("the stub was told to fail permanently")
        if kind == "unknown":
            raise UnknownResultError("the stub was told not to answer")


def _write(outbox: Path, email_id: str, content: bytes) -> Path:
    # The name is a hash, because an id may contain a path separator and should not show in a folder's listing.
    path = outbox / f"{hashlib.sha256(email_id.encode()).hexdigest()[:32]}.eml"
    try:
        outbox.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:  # such as a file system that is read-only or full
        raise TemporaryError(f"the stub cannot write to EMAIL_STUB_OUTBOX: {error.strerror}") from None
    return path
